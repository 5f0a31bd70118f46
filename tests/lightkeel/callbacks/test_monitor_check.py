from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightkeel.callbacks.checkpoint import Checkpoint
from lightkeel.callbacks.monitor_check import MonitorCheck, check_monitors
from lightkeel.callbacks.throughput import Throughput
from lightkeel.fit.exact_resume import ExactResume
from tests.lightkeel.fitting import Given, Line, fit, trainer

MISSED = "callbacks.early_stopping.monitor: `{}` is never logged. "
ALONE = (
    "`val_loss` is never logged without validation (trainer.limit_val_batches: 0). Monitor a "
    "metric of training."
)


@pytest.mark.parametrize("callback", [Checkpoint("val_loss"), EarlyStopping("val_loss")])
def test_validation_that_never_comes_is_known_without_data(tmp_path: Path, callback: Any) -> None:
    made = trainer(tmp_path, callback)
    with pytest.raises(ValueError, match="never logged") as caught:
        check_monitors(made)
    owner = "checkpoint" if isinstance(callback, Checkpoint) else "early_stopping"
    assert str(caught.value) == f"callbacks.{owner}.monitor: {ALONE}"
    check_monitors(trainer(tmp_path, callback, limit_val_batches=1))
    check_monitors(trainer(tmp_path, EarlyStopping("value_loss")))


class Foreign(LightningModule):
    """Somebody else's model, that logs where it likes."""

    def __init__(self, **plateau: Any) -> None:
        super().__init__()
        self.plateau, self.num_steps = plateau, 0
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch[0]).square().mean()
        self.log("train_loss", loss)
        self.num_steps += 1
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("late", 1.0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        if not self.plateau:
            return optimizer
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **self.plateau}}


class Loaders(LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(1, 1)))

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(1, 1)))


AT_SANITY = "Did you mean `val_loss`? Available: val_loss."
AT_EPOCH = "Available: late, samples_per_s, train_loss, val_loss."


@pytest.mark.parametrize(
    ("monitor", "options", "message", "num_steps"),
    [
        # After the validation at the start.
        ("val_los", {}, AT_SANITY, 0),
        ("valid/odd", {}, "Available: val_loss.", 0),
        # After an epoch.
        ("val_los", {"num_sanity_val_steps": 0}, f"Did you mean `val_loss`? {AT_EPOCH}", 1),
        ("train_los", {}, f"Did you mean `train_loss`? {AT_EPOCH}", 1),
        ("train_los", {"max_epochs": 1}, f"Did you mean `train_loss`? {AT_EPOCH}", 1),
        ("value_loss", {}, f"Did you mean `val_loss`? {AT_EPOCH}", 1),
        # Validation may log it.
        ("odd", {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0}, AT_EPOCH, 2),
        ("odd", {"limit_val_batches": 0}, AT_EPOCH.replace(", val_loss", ""), 1),
        ("val_loss", {}, None, 3),
        ("train_loss", {}, None, 3),
        ("late", {}, None, 3),
        ("samples_per_s", {}, None, 3),
    ],
)
@pytest.mark.filterwarnings("ignore:.*conditioned on metric")
def test_what_is_never_logged_is_refused(
    tmp_path: Path, monitor: str, options: dict[str, Any], message: str | None, num_steps: int
) -> None:
    model, stopping = Foreign(), EarlyStopping(monitor=monitor)
    settings = {"limit_val_batches": 1, "num_sanity_val_steps": 1, "max_epochs": 3, **options}
    callbacks = (MonitorCheck(), stopping, Throughput(), Checkpoint())
    if message is None:
        fit(tmp_path, model, Loaders(), *callbacks, **settings)
    else:
        with pytest.raises(ValueError, match="never logged") as caught:
            fit(tmp_path, model, Loaders(), *callbacks, **settings)
        assert str(caught.value) == MISSED.format(monitor) + message
    assert model.num_steps == num_steps


@pytest.mark.parametrize(
    ("monitor", "options", "message"),
    [
        ("val_los", {}, f"`val_los` is never logged. {AT_SANITY}"),
        ("val_loss", {"limit_val_batches": 0}, ALONE),
        (
            "train_los",
            {},
            "`train_los` is never logged. Did you mean `train_loss`? Available: late,"
            " train_loss, val_loss.",
        ),
        ("val_loss", {}, None),
        ("train_loss", {}, None),
    ],
)
@pytest.mark.filterwarnings("ignore:.*conditioned on metric")
def test_metric_of_a_schedule(
    tmp_path: Path, monitor: str, options: dict[str, Any], message: str | None
) -> None:
    model = Foreign(monitor=monitor)
    settings = {"limit_val_batches": 1, "num_sanity_val_steps": 1, "max_epochs": 2, **options}
    if message is None:
        fit(tmp_path, model, Loaders(), MonitorCheck(), **settings)
        return
    with pytest.raises(ValueError, match="never logged") as caught:
        fit(tmp_path, model, Loaders(), MonitorCheck(), **settings)
    assert str(caught.value) == f"model.lr_scheduler.monitor: {message}"
    assert model.num_steps <= 1


def test_what_was_trained_till_then_is_saved(tmp_path: Path) -> None:
    callbacks = (ExactResume(), MonitorCheck(), Checkpoint("train/los", mode="min"))
    data = Given(torch.zeros(2, 1), torch.zeros(2), batch_size=1)
    with pytest.raises(ValueError, match="`train/los` is never logged"):
        fit(tmp_path, Line(), data, *callbacks, max_epochs=2)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == (1, 2)
