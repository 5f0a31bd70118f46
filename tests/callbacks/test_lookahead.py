from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn import functional as F

from src.callbacks import Lookahead
from tests.fitting import Given, Line, Stream, fit

# The gradient of (w - 1)^2 / 2 * 2 at w: 2 (w - 1); with lr 0.25 each step halves the distance.
DATA: dict[str, Any] = {"inputs": torch.ones(8, 1), "targets": torch.ones(8), "batch_size": 1}


class Weights(Callback):
    """Keep the weight before each batch."""

    def __init__(self) -> None:
        self.before: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.before.append(pl_module.layer.weight.item())


def train(folder: Path, lookahead: Lookahead, **options: Any) -> tuple[float, list[float]]:
    model = Line(bias=False, optimizer={"name": "SGD", "lr": 0.25})
    seen = Weights()
    fit(folder, model, Given(**DATA), lookahead, seen, **options)
    return model.layer.weight.item(), seen.before


def test_by_hand(tmp_path: Path) -> None:
    """Slow weights after steps 2, 4 and 6 of 8; after step 8 the weights are the slow ones."""
    last, before = train(tmp_path, Lookahead(every_n_steps=2, decay=0.5))
    weight, slow, expected = 0.0, 0.0, []
    for step in range(1, 9):
        expected.append(weight)
        weight += (1 - weight) / 2
        if step % 2 == 0:
            keep = 1.0 if step == 8 else 0.5 * (step / 8) ** 3
            slow = keep * slow + (1 - keep) * weight
            weight = slow
    assert before == pytest.approx(expected)
    assert last == pytest.approx(slow)
    assert expected[2] == pytest.approx(0.75 * (1 - 0.5 / 64))  # written out once


def test_without_decay_it_changes_nothing_but_the_end(tmp_path: Path) -> None:
    last, before = train(tmp_path, Lookahead(every_n_steps=3, decay=0.0))
    assert before == pytest.approx([1 - 0.5**k for k in range(8)])
    assert last == pytest.approx(1 - 0.5**6)  # the slow weights are those of step 6


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    last, before = train(tmp_path, Lookahead(every_n_steps=1, decay=0.0), accumulate_grad_batches=2)
    assert before == pytest.approx([1 - 0.5 ** (k // 2) for k in range(8)])
    assert last == pytest.approx(1 - 0.5**3)


def test_resumed_run_is_the_run_that_was_not_stopped(tmp_path: Path) -> None:
    def build() -> tuple[Line, Given]:
        return Line(bias=False, optimizer={"name": "SGD", "lr": 0.25}), Given(**DATA)

    whole, data = build()
    fit(tmp_path, whole, data, Lookahead(3), max_epochs=2)
    # As a run of two epochs that is stopped after one.
    parts, data = build()
    trainer = fit(tmp_path, parts, data, Stopped(Lookahead(3)), max_epochs=2)
    path = tmp_path / "parts.ckpt"
    trainer.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["callbacks"]
    resumed, data = build()
    fit(tmp_path, resumed, data, Lookahead(3), ckpt_path=path, max_epochs=2)
    assert resumed.weights == whole.weights
    assert resumed.weights != parts.weights


def Stopped(lookahead: Lookahead) -> Lookahead:  # noqa: N802
    """Have the trainer stop at the end of the first epoch."""

    def on_train_epoch_end(trainer: Any, pl_module: Any) -> None:
        trainer.should_stop = True

    lookahead.on_train_epoch_end = on_train_epoch_end  # type: ignore[method-assign]
    return lookahead


def test_statistics_of_norms_are_averaged(tmp_path: Path) -> None:
    """With ``keep`` 1 at the last step they end as they were when training began."""
    model = Line(bias=False)
    norm = nn.BatchNorm1d(1)
    model.network = nn.Sequential(norm, *model.network.children())
    fit(tmp_path, model, Given(torch.randn(8, 1) + 3, torch.ones(8), batch_size=8), Lookahead(1))
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0.0]
    assert norm.num_batches_tracked == 1


def test_length_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^decay: .* Set trainer\.max_epochs \("):
        fit(tmp_path, Line(), Given(**DATA), Lookahead(), max_epochs=-1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps: 0 is not at least 1."),
        ({"decay": 1.5}, "decay: 1.5 is not in [0, 1]."),
    ],
)
def test_constructor_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        Lookahead(**settings)
    assert str(error.value) == message


class ByHand(Line):
    """Steps twice a batch, each time half the way to 1."""

    def __init__(self) -> None:
        super().__init__(bias=False, optimizer={"name": "SGD", "lr": 0.25})
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        for _ in range(2):
            optimizer.zero_grad()
            self.manual_backward(F.mse_loss(self(batch[0]), batch[1]))
            optimizer.step()


def test_manual_optimization_is_counted_in_batches(tmp_path: Path) -> None:
    """The run ends with the average of its last batch, not of its midst."""
    model = ByHand()
    fit(tmp_path, model, Given(**DATA), Lookahead(every_n_steps=7, decay=0.0))
    assert model.layer.weight.item() == pytest.approx(1 - 0.5**14)


def test_stream_has_no_length_to_follow(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^decay: follows the length .* for a stream\)\.$"):
        fit(tmp_path, Line(), Stream(), Lookahead())
