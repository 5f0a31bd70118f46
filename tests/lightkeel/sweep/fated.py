"""An experiment whose runs end as they are told to, and log what is known beforehand."""

import os
import signal
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Fated(LightningModule):
    """A weight that is of no use; ``val/loss`` is ``value`` + 1 / (number of the epoch, from 1).

    Args:
        value: What the metric comes to.
        fate: How the second epoch ends: with NaN, an error, or a signal.
    """

    def __init__(
        self, value: float = 0.0, fate: Literal["fine", "nan", "crash", "kill"] = "fine"
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.value, self.fate = value, fate
        self.layer = nn.Linear(1, 1)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(torch.ones(2, 1)))

    val_dataloader = train_dataloader

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.current_epoch == 1 and self.fate == "crash":
            raise RuntimeError("as it was told to")
        if self.current_epoch == 1 and self.fate == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.layer(*batch).square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        value = float("nan") if self.fate == "nan" else self.value + 1 / (self.current_epoch + 1)
        self.log("val/loss", value)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)
