import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

from lightkeel.callbacks.gradient_norms import GradientNorms
from lightkeel.callbacks.nonfinite import Nonfinite
from lightkeel.callbacks.readings import is_result
from src.callbacks import GradientClipping
from src.models.supervised import SupervisedModule
from src.train import main as train
from tests.lightkeel.conftest import TINY
from tests.lightkeel.fitting import Given, Rows, fit

# Two weights after one another: y = b (a x), squared error, so that
# d/da = 2 (b a x - y) b x and d/db = 2 (b a x - y) a x.
A, B = 3.0, -2.0


class Chain(SupervisedModule):
    """``B (A x) + bias`` of one feature."""

    def __init__(self, train_first: bool = True, **optimizer: Any) -> None:
        layers = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1), nn.Flatten(0))
        settings = {"name": "SGD", "lr": 0.0, **optimizer}
        super().__init__(layers, F.mse_loss, {}, optimizer=settings)
        for parameter, value in zip(layers.parameters(), (A, B, 0.0), strict=True):
            nn.init.constant_(parameter, value)
        layers[0].weight.requires_grad_(train_first)


def data(*inputs: float) -> Given:
    """Serve one input a batch, with the target 0."""
    return Given(torch.tensor(inputs)[:, None], torch.zeros(len(inputs)), batch_size=1)


def expected(x: float) -> dict[str, float]:
    error = 2 * A * B * x
    return {"network.0": abs(error * B * x), "network.1": math.hypot(error * A * x, error)}


def check(logger: Rows, inputs: dict[int, float]) -> None:
    """Check that the rows of some steps hold the norms for their inputs, and no other row any."""
    for name in ("network.0", "network.1"):
        norms = {step: expected(x)[name] for step, x in inputs.items()}
        assert logger.column(f"grad_norm/{name}") == pytest.approx(norms)


def test_norms_by_hand(tmp_path: Path) -> None:
    assert expected(1.0) == {"network.0": 24.0, "network.1": math.hypot(36.0, 12.0)}
    logger = Rows()
    fit(tmp_path, Chain(), data(1.0, 0.5, -3.0), GradientNorms(1), logger=logger)
    check(logger, {0: 1.0, 1: 0.5, 2: -3.0})


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, {1: 0.5, 3: 2.0}),
        ({"max_epochs": 2}, {1: 0.5, 3: 2.0, 5: 1.0, 7: -3.0, 9: 0.1}),
        ({"log_every_n_steps": 3}, {2: -3.0}),
        # The first row after each second step; that of step 4 repeats it.
        ({"log_every_n_steps": 1}, {1: 0.5, 2: 0.5, 3: 2.0, 4: 2.0}),
        ({"log_every_n_steps": 0}, {}),
    ],
)
def test_every_few_steps(tmp_path: Path, options: dict[str, Any], steps: dict[int, float]) -> None:
    logger, rows = Rows(), data(1.0, 0.5, -3.0, 2.0, 0.1)
    options = {"log_every_n_steps": 2, **options}
    fit(tmp_path, Chain(), rows, GradientNorms(2), logger=logger, **options)
    check(logger, steps)


def test_norms_are_those_before_clipping(tmp_path: Path) -> None:
    logger, rows = Rows(), data(1.0, 0.5)
    fit(tmp_path, Chain(), rows, GradientNorms(1), GradientClipping(max_norm=0.1), logger=logger)
    check(logger, {0: 1.0, 1: 0.5})
    whole = {step: math.hypot(*expected(x).values()) for step, x in {0: 1.0, 1: 0.5}.items()}
    assert logger.column("grad/norm") == pytest.approx(whole)


def test_accumulated(tmp_path: Path) -> None:
    logger, rows = Rows(), data(1.0, 1.0)
    fit(tmp_path, Chain(), rows, GradientNorms(1), logger=logger, accumulate_grad_batches=2)
    check(logger, {0: 1.0})


def test_layers_that_are_not_trained_are_left_out(tmp_path: Path) -> None:
    logger = Rows()
    fit(tmp_path, Chain(train_first=False), data(1.0), GradientNorms(1), logger=logger)
    found = {name for _, row in logger.rows for name in row if name.startswith("grad_norm/")}
    assert found == {"grad_norm/network.1"}


@pytest.mark.parametrize("optimizer", [{}, {"name": "AdamW", "fused": True}])
def test_half_precision(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    """Whoever unscales gradients, and when."""
    logger, scaler = Rows(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    model = Chain(**optimizer)
    fit(tmp_path, model, data(1.0), GradientNorms(1), logger=logger, plugins=plugin)
    check(logger, {0: 1.0})


class Tied(LightningModule):
    """A weight of its own, and one that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.second.weight = self.first.weight
        nn.init.constant_(self.first.weight, 2.0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = (self.weight * self.second(self.first(batch[0]))).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


def test_own_and_shared_weights_count_once(tmp_path: Path) -> None:
    logger = Rows()
    fit(tmp_path, Tied(), data(1.0), GradientNorms(1), logger=logger)
    ((_, row),) = logger.rows
    assert row == {"grad_norm/model": 4.0, "grad_norm/first": 4.0, "epoch": 0}


def test_is_on_in_a_run_and_changes_nothing(tmp_path: Path, tiny_run: Path) -> None:
    args = [*TINY, "--runs_dir", str(tmp_path), "--run_name", "often"]
    args += ["--trainer.log_every_n_steps", "2"]
    assert train([*args, "--callbacks.gradient_norms.every_n_steps", "2"]) == 0
    events = EventAccumulator(str(tmp_path / "tiny" / "often")).Reload()
    for layer in ("network.0", "network.3"):
        assert [event.step for event in events.Scalars(f"grad_norm/{layer}")] == [1, 3, 5]
    one, other = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (tiny_run, tmp_path / "tiny" / "often")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_is_no_result() -> None:
    assert not is_result("grad_norm/network.0")


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"^every_n_steps: 0 is not at least 1\.$"):
        GradientNorms(every_n_steps=0)


class Adversaries(LightningModule):
    """Two layers, each with an optimizer of its own, the second of which steps twice a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layers = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(2))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, _ = batch
        for number, factor in ((0, 1.0), (1, 3.0), (1, 5.0)):
            optimizer: Any = self.trainer.optimizers[number]
            optimizer.zero_grad()
            self.manual_backward((factor * self.layers[number](x)).sum())
            wrapped: Any = self.optimizers()
            wrapped[number].step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(layer.parameters(), lr=0.0) for layer in self.layers]


def test_of_several_optimizers_each_layer_once(tmp_path: Path) -> None:
    logger, rows = Rows(), data(1.0, 0.5, -3.0, 2.0)
    fit(tmp_path, Adversaries(), rows, GradientNorms(2), logger=logger, log_every_n_steps=2)
    assert logger.column("grad_norm/layers.0") == {1: 0.5, 3: 2.0}
    assert logger.column("grad_norm/layers.1") == {1: 2.5, 3: 10.0}  # of its last step
    named = [name for _, row in logger.rows for name in row if name.startswith("grad_norm/")]
    assert len(named) == 4


def test_of_several_optimizers_each_is_clipped_and_logged(tmp_path: Path) -> None:
    logger, rows = Rows(), data(1.0, 0.5, -3.0, 2.0)
    fit(tmp_path, Adversaries(), rows, GradientClipping(1.2), logger=logger, log_every_n_steps=2)
    assert logger.column("grad/norm/0") == pytest.approx({1: 0.5, 3: 2.0})
    assert logger.column("grad/clipped/0") == pytest.approx({1: 0, 3: 1})
    assert logger.column("grad/norm/1") == pytest.approx({1: 2.5, 3: 10.0})  # of its last step
    names = [name for _, row in logger.rows for name in row if name.startswith("grad/norm")]
    assert len(names) == 4


def test_of_several_optimizers_what_is_skipped_is_logged_once(tmp_path: Path) -> None:
    logger, rows = Rows(), data(1.0, 0.5, -3.0, 2.0)
    fit(tmp_path, Adversaries(), rows, Nonfinite("skip"), logger=logger, log_every_n_steps=2)
    skipped = [(step, row) for step, row in logger.rows if "grad/skipped" in row]
    assert skipped == [(step, {"grad/skipped": 0, "epoch": 0}) for step in (1, 3)]


class Closures(Chain):
    """Computes gradients several times a step, and notes the norm of the first layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []

    def on_after_backward(self) -> None:
        first: Any = next(self.network.parameters())
        self.norms.append(first.grad.norm().item())

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


def test_a_step_with_several_closures_has_one_row(tmp_path: Path) -> None:
    logger, model = Rows(), Closures()
    fit(tmp_path, model, data(1.0), GradientNorms(1), logger=logger)
    assert [step for step, row in logger.rows if "grad_norm/network.0" in row] == [0]
    assert model.norms[0] == 24.0
    assert len(model.norms) == 4
    assert logger.column("grad_norm/network.0") == pytest.approx({0: model.norms[-1]})
