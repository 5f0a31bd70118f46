from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, TensorDataset

from src.callbacks import GradientAccumulation, gradient_accumulation
from tests.lightkeel.fitting import Given, Line, fit, noisy_line


class Steps(Callback):
    """Record the optimizer steps made by the end of each epoch."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.append(trainer.global_step)


def regression(
    folder: Path, num_samples: int, batch_size: int, *callbacks: Callback, **options: Any
) -> tuple[torch.Tensor, list[int]]:
    """Train for three epochs, far from the end; return weights and steps by epoch."""
    model = Line(num_features=2, optimizer={"name": "SGD", "lr": 0.05, "momentum": 0.5})
    data, steps = noisy_line(num_samples, batch_size=batch_size), Steps()
    fit(folder, model, data, *callbacks, steps, max_epochs=3, **options)
    return torch.tensor(model.weights), steps.steps


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "batches", "steps"),
    [
        (1000, 64, 4, [4, 8, 12]),  # smaller last batch: 15 * 64 + 40
        (1000, 100, 4, [3, 6, 9]),  # shorter last step: 4, 4, 2 batches
        (90, 8, 4, [3, 6, 9]),  # smaller last batch: 11 * 8 + 2
        (90, 8, 5, [3, 6, 9]),  # both
        (64, 8, 2, [4, 8, 12]),  # neither
        (20, 8, 16, [1, 2, 3]),  # fewer batches than a step takes
    ],
)
def test_k_batches_of_n_are_one_of_k_times_n(
    tmp_path: Path, num_samples: int, batch_size: int, batches: int, steps: list[int]
) -> None:
    accumulation = GradientAccumulation(batches)
    found = regression(tmp_path, num_samples, batch_size, accumulation)
    expected = regression(tmp_path, num_samples, batch_size * batches)
    assert torch.allclose(found[0], expected[0], rtol=0, atol=1e-6)
    assert found[1] == expected[1] == steps


def test_lightnings_own_accumulation_is_another_thing(tmp_path: Path) -> None:
    """It is what the test above would let pass if the numbers were too kind."""
    for num_samples, batch_size, batches in ((1000, 64, 4), (1000, 100, 4), (90, 8, 4)):
        options = {"accumulate_grad_batches": batches}
        found, _ = regression(tmp_path, num_samples, batch_size, **options)
        expected, _ = regression(tmp_path, num_samples, batch_size * batches)
        assert float((found - expected).abs().max()) > 1e-4


def mean_seeking() -> Line:
    """Build a weight that each step sets to the mean of the step's targets, where x = 1."""
    return Line(bias=False, optimizer={"name": "SGD", "lr": 0.5})


@pytest.mark.parametrize(
    ("targets", "batch_size", "batches", "limit", "expected"),
    [
        ([1, 3, 8], 2, 2, None, 4),  # and not the mean of the means 2 and 8
        ([1, 3, 5, 7], 1, 2, 3, 5),  # the last step is of one batch
        ([1, 3, 5, 7], 1, 2, 4, 6),
        ([1, 3, 5, 7, 11], 2, 2, 2, 4),
        ([1, 3, 8], 2, 1, None, 8),
    ],
)
def test_last_step_is_the_mean_of_its_samples(
    tmp_path: Path,
    targets: list[float],
    batch_size: int,
    batches: int,
    limit: int | None,
    expected: float,
) -> None:
    model = mean_seeking()
    data = Given(torch.ones(len(targets), 1), torch.tensor(targets).float(), batch_size=batch_size)
    fit(tmp_path, model, data, GradientAccumulation(batches), limit_train_batches=limit)
    assert model.weights == pytest.approx([expected])


class Foreign(LightningDataModule):
    """Somebody else's data: batches of a plain loader, whose sizes nobody tells."""

    def __init__(self, targets: list[float]) -> None:
        super().__init__()
        self.targets = torch.tensor(targets)

    def train_dataloader(self) -> Any:
        dataset = TensorDataset(torch.ones(len(self.targets), 1), self.targets)
        return DataLoader(dataset, batch_size=1)


def test_shorter_last_step_of_any_loader(tmp_path: Path) -> None:
    model = mean_seeking()
    fit(tmp_path, model, Foreign([1.0, 3.0, 5.0]), GradientAccumulation(2))
    assert model.weights == pytest.approx([5.0])


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [4, 8, 12, 16]),
        ({"batches": 3}, [2, 4, 6, 8]),
        ({"schedule": {0: 4, 2: 1}}, [1, 2, 6, 10]),
        ({"schedule": {1: 2, 3: 4}}, [4, 6, 8, 9]),
        ({"effective_batch_size": 4}, [2, 4, 6, 8]),
        ({"effective_batch_size": 2}, [4, 8, 12, 16]),
    ],
)
def test_steps_by_epoch(tmp_path: Path, settings: dict[str, Any], steps: list[int]) -> None:
    data = Given(torch.ones(8, 1), torch.ones(8), batch_size=2)
    recorded = Steps()
    model = mean_seeking()
    fit(tmp_path, model, data, GradientAccumulation(**settings), recorded, max_epochs=4)
    assert recorded.steps == steps


def test_effective_batch_size_of_other_data(tmp_path: Path) -> None:
    data, accumulation = Foreign([1.0, 3.0, 5.0]), GradientAccumulation(effective_batch_size=2)
    with pytest.raises(ValueError, match="batch_size") as caught:
        fit(tmp_path, mean_seeking(), data, accumulation)
    assert str(caught.value) == "effective_batch_size: the data has no batch_size. Give `batches`."
    data.batch_size = 1  # type: ignore[attr-defined]
    fit(tmp_path, mean_seeking(), data, accumulation)
    assert accumulation.scheduling == {0: 2}


@pytest.mark.parametrize(("effective", "near"), [(10, 8), (11, 12), (1, 4)])
def test_effective_batch_size_must_be_a_multiple(tmp_path: Path, effective: int, near: int) -> None:
    data = Given(torch.ones(8, 1), torch.ones(8), batch_size=4)
    with pytest.raises(ValueError, match="multiple") as caught:
        fit(tmp_path, mean_seeking(), data, GradientAccumulation(effective_batch_size=effective))
    assert str(caught.value) == (
        f"effective_batch_size: {effective} is not a multiple of the 4 samples of a batch over "
        f"1 device(s). Use {near}, for example."
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batches": 0}, "batches: 0 is not at least 1."),
        ({"effective_batch_size": 0}, "effective_batch_size: 0 is not at least 1."),
        ({"schedule": {0: 2, 3: 0}}, "schedule: 3: 0 is not epoch >= 0: batches >= 1."),
        ({"schedule": {-1: 2}}, "schedule: -1: 2 is not epoch >= 0: batches >= 1."),
        ({"schedule": {}}, "schedule: empty. Give epoch: batches, or leave it out."),
        (
            {"batches": 2, "schedule": {0: 2}},
            "schedule: cannot be combined with batches. Give one of them.",
        ),
        (
            {"batches": 2, "effective_batch_size": 64},
            "effective_batch_size: cannot be combined with batches. Give one of them.",
        ),
        (
            {"schedule": {0: 2}, "effective_batch_size": 64},
            "schedule: cannot be combined with effective_batch_size. Give one of them.",
        ),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=":") as caught:
        GradientAccumulation(**settings)
    assert str(caught.value) == message


def test_lightnings_own_scheduler_is_taken_over(tmp_path: Path) -> None:
    steps, data = Steps(), Given(torch.zeros(4, 1), torch.zeros(4), batch_size=1)
    theirs = GradientAccumulationScheduler({0: 1, 1: 4})
    fit(tmp_path, Line(), data, GradientAccumulation(), theirs, steps, max_epochs=3)
    assert steps.steps == [4, 5, 6]
    with pytest.raises(ValueError, match=r"^set beside a GradientAccumulationScheduler of trainer"):
        fit(tmp_path, Line(), data, GradientAccumulation(2), theirs)


class ByHand(Line):
    """Optimizes by hand, and notes its loss after the gradient was computed."""

    def __init__(self) -> None:
        super().__init__(optimizer={"name": "SGD", "lr": 0.0})
        self.automatic_optimization = False
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        self.losses.append(loss.item())


def test_default_refuses_no_manual_optimization_and_changes_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = ByHand(), Given(torch.zeros(3, 1), torch.full((3,), 2.0), batch_size=2)
    # On two devices, a batch that is smaller than another here would be weighted.
    monkeypatch.setattr(gradient_accumulation, "batch_weight", lambda trainer, batch: 0.5)
    fit(tmp_path, model, data, GradientAccumulation())
    assert model.losses == [4.0, 4.0]


def test_manual_optimization_does_not_accumulate(tmp_path: Path) -> None:
    data = Given(torch.zeros(3, 1), torch.zeros(3), batch_size=1)
    with pytest.raises(ValueError, match="optimizes by hand") as caught:
        fit(tmp_path, ByHand(), data, GradientAccumulation(2))
    assert str(caught.value) == (
        "ByHand optimizes by hand (automatic_optimization is off), and accumulates batches in its "
        "training_step or not at all. Leave this out."
    )


@pytest.mark.parametrize(("batches", "steps"), [(1, 10), (2, 6), (5, 2)])
def test_a_model_is_told_how_many_steps_there_are(tmp_path: Path, batches: int, steps: int) -> None:
    class Asks(Line):
        def configure_optimizers(self) -> Any:
            self.told = self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    model, data = Asks(), Given(torch.zeros(5, 1), torch.zeros(5), batch_size=1)
    made = fit(tmp_path, model, data, GradientAccumulation(batches), max_epochs=2)
    assert model.told == made.global_step == steps
