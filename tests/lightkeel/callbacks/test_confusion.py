from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from lightkeel.callbacks import confusion as confusions
from lightkeel.callbacks.confusion import MAX_CLASSES, Confusion, Mistake, fits
from src.models.supervised import SupervisedModule
from tests.lightkeel.fitting import Given, fit, trainer

# Scores of three classes, as logarithms of probabilities in tenths; and the true classes.
TENTHS = [[8, 1, 1], [1, 7, 2], [6, 2, 2], [9, 0.5, 0.5], [1, 2, 7], [1, 8.5, 0.5], [2, 2.5, 5.5]]
CLASSES = [0, 1, 1, 2, 2, 2, 0]
MATRIX = [[1, 0, 1], [1, 1, 0], [1, 1, 1]]
# The mistakes, by sample, target, predicted class and probability.
WORST = [(3, 2, 0, 0.9), (5, 2, 1, 0.85), (2, 1, 0, 0.6), (6, 0, 2, 0.55)]


class Scores(SupervisedModule):
    """A model whose inputs are its outputs."""

    def __init__(self, loss: Any = F.cross_entropy) -> None:
        super().__init__(nn.Identity(), loss, {})
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.factor


def samples() -> tuple[Tensor, Tensor]:
    return torch.tensor(TENTHS).div(10).log(), torch.tensor(CLASSES)


def run(confusion: Confusion, inputs: Tensor, targets: Tensor, split: str = "test") -> Trainer:
    made = trainer(Path(), confusion, limit_val_batches=1.0)
    loop = made.test if split == "test" else made.validate
    loop(Scores(), datamodule=Given(inputs, targets, batch_size=3), verbose=False)
    return made


def check_worst(worst: list[Mistake], rows: list[tuple[int, int, int, float]]) -> None:
    inputs, _ = samples()
    assert len(worst) == len(rows)
    for mistake, (sample, target, predicted, probability) in zip(worst, rows, strict=True):
        assert torch.equal(mistake.inputs, inputs[sample])
        assert (mistake.target, mistake.predicted) == (target, predicted)
        assert mistake.probability == pytest.approx(probability)


@pytest.mark.parametrize("split", ["test", "val"])
def test_counts_and_mistakes(split: str) -> None:
    confusion = Confusion()
    for _ in range(2):  # the second time anew
        run(confusion, *samples(), split)
        assert confusion.matrix is not None
        assert confusion.matrix.tolist() == MATRIX
        assert confusion.matrix.dtype == torch.int64
        check_worst(confusion.worst, WORST)
        confusion.matrix.add_(1)  # no tensors of inference mode, which could not be changed
        confusion.worst[0].inputs.add_(1)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_as_many_mistakes_as_asked_for(number: int) -> None:
    confusion = Confusion(num_worst=number)
    run(confusion, *samples())
    check_worst(confusion.worst, WORST[:number])


def test_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if one device had the first four samples, and this one the others."""
    inputs, targets = samples()
    gathered: list[Any] = []

    def gather(trainer: Trainer, value: Any) -> list[Any]:
        gathered.append(value)
        return gathered

    monkeypatch.setattr(confusions, "gather", gather)
    run(Confusion(), inputs[:4], targets[:4])
    confusion = Confusion(num_worst=3)
    run(confusion, inputs[4:], targets[4:])
    assert confusion.matrix is not None
    assert confusion.matrix.tolist() == MATRIX
    check_worst(confusion.worst, WORST[:3])


def test_nothing_in_training() -> None:
    confusion = Confusion()
    data = Given(*samples(), batch_size=3)
    fit(Path(), Scores(), data, confusion, limit_val_batches=1.0, num_sanity_val_steps=1)
    assert confusion.matrix is None
    assert confusion.worst == []
    assert not [name for name in vars(Confusion) if "train" in name]


def test_what_has_no_place_is_left_out() -> None:
    """Classes that are none, as of samples without label, and probabilities that are no number."""
    inputs, targets = samples()
    targets = targets.clone()
    inputs[3] = float("nan")  # of class 2, taken for 0
    targets[5] = -100
    confusion = Confusion()
    run(confusion, inputs, targets)
    assert confusion.matrix is not None
    assert confusion.matrix.tolist() == [[1, 0, 1], [1, 1, 0], [1, 0, 1]]
    check_worst(confusion.worst, [WORST[2], WORST[3]])


def test_regression() -> None:
    made = trainer(Path(), confusion := Confusion())
    data = Given(torch.zeros(4), torch.zeros(4), batch_size=3)
    made.test(Scores(F.mse_loss), datamodule=data, verbose=False)
    assert confusion.matrix is None
    assert confusion.worst == []


def test_inputs_of_several_sizes() -> None:
    confusion = Confusion()
    scores, targets = samples()
    for part, width in ((slice(0, 4), 5), (slice(4, 7), 6)):
        inputs = torch.full((len(targets[part]), width), float(width))
        confusion._collect(scores[part], (inputs, targets[part]))
    confusion._finish(trainer(Path()))
    assert confusion.matrix is not None
    assert confusion.matrix.tolist() == MATRIX
    assert [m.inputs.tolist() for m in confusion.worst] == [[5.0] * 5] * 2


@pytest.mark.parametrize(
    ("outputs", "batch"),
    [
        (None, (torch.zeros(2, 1), torch.zeros(2).long())),
        (torch.zeros(2, 3), torch.zeros(2, 3)),
        (torch.zeros(2, 3), (torch.zeros(2, 1),)),
        (torch.zeros(2, 3), ({"text": 0}, torch.zeros(2).long())),
        (torch.zeros(2, 3), (torch.zeros(2, 1), torch.zeros(2))),
        (torch.zeros(2, 3), (torch.zeros(2, 1), torch.zeros(2, 3).long())),
        (torch.zeros(2, 3).long(), (torch.zeros(2, 1), torch.zeros(2).long())),
        (torch.zeros(2, 3, 4), (torch.zeros(2, 1), torch.zeros(2).long())),
        (torch.zeros(2, MAX_CLASSES + 1), (torch.zeros(2, 1), torch.zeros(2).long())),
    ],
)
def test_what_does_not_fit(outputs: Any, batch: Any) -> None:
    assert not fits(outputs, batch)


def test_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^num_worst: -1 is not at least 0\.$"):
        Confusion(num_worst=-1)
