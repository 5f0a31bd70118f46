"""A linear model for rows of a table, which logs nothing."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..losses import huber


class TabularModel(LightningModule):
    """Predict the last column of a table from the others."""

    def __init__(self, num_columns: int = 2, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.layer = nn.Linear(num_columns, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        return huber(self.layer(inputs)[:, 0], targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)
