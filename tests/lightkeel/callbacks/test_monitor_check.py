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
from tests.lightkeel.fitting import Given, Line, fit, trainer

LOGGED = " Available: train/loss, val/loss."


@pytest.mark.parametrize(
    ("callback", "options", "message"),
    [
        (
            Checkpoint(monitor="val/los"),
            {},
            "callbacks.checkpoint.monitor: `val/los` is never logged. Did you mean `val/loss`?"
            + LOGGED,
        ),
        (
            EarlyStopping(monitor="xyz"),
            {},
            "callbacks.early_stopping.monitor: `xyz` is never logged." + LOGGED,
        ),
        (
            EarlyStopping(monitor="val/loss"),
            {"limit_val_batches": 0},
            "callbacks.early_stopping.monitor: `val/loss` is never logged without validation. "
            "Did you mean `train/loss`? Available: train/loss.",
        ),
        (EarlyStopping(monitor="val/loss"), {}, None),
        (EarlyStopping(monitor="train/loss"), {"limit_val_batches": 0}, None),
        (EarlyStopping(monitor="samples_per_s"), {}, None),
        (Checkpoint(), {}, None),
    ],
)
def test_what_is_never_logged_is_refused_without_data(
    tmp_path: Path, callback: Any, options: dict[str, Any], message: str | None
) -> None:
    made = trainer(tmp_path, callback, **{"limit_val_batches": None, **options})
    if message is None:
        check_monitors(made, Line())
        return
    with pytest.raises(ValueError, match="never logged") as caught:
        check_monitors(made, Line())
    assert str(caught.value) == message
    data = Given(torch.zeros(1, 1), torch.zeros(1))
    with pytest.raises(ValueError, match="never logged") as caught:
        fit(tmp_path, Line(), data, callback, MonitorCheck(), **{"limit_val_batches": 1, **options})
    assert str(caught.value) == message


class Foreign(LightningModule):
    """Somebody else's model, that does not tell what it logs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch[0]).square().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Loaders(LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(1, 1)))

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(1, 1)))


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        (
            "val_los",
            "callbacks.early_stopping.monitor: `val_los` is never logged. Did you mean `val_loss`? "
            "Available: val_loss.",
        ),
        ("val_loss", None),
        ("train_loss", None),  # not known before training
    ],
)
def test_other_models_are_checked_after_the_first_validation(
    tmp_path: Path, monitor: str, message: str | None
) -> None:
    model, stopping = Foreign(), EarlyStopping(monitor=monitor)
    options: dict[str, Any] = {"limit_val_batches": 1, "num_sanity_val_steps": 1}
    before = model.layer.weight.item()
    if message is None:
        made = fit(tmp_path, model, Loaders(), stopping, MonitorCheck(), **options)
        assert made.global_step == 1
        return
    with pytest.raises(ValueError, match="never logged") as caught:
        fit(tmp_path, model, Loaders(), stopping, MonitorCheck(), **options)
    assert str(caught.value) == message
    assert model.layer.weight.item() == before
