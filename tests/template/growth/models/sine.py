"""A module as Lightning documents them: own loaders, no hyperparameters, names of its own."""

import warnings

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from ..losses import huber

warnings.filterwarnings("ignore", message=".*does not have many workers.*")
torch.set_float32_matmul_precision("high")


class SineNet(LightningModule):
    """Fit a sine.

    Args:
        width: Of the hidden layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))
        self.unused = nn.Linear(1, 1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return huber(self(x), y)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", huber(self(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader(200, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader(40, shuffle=False)

    def _loader(self, count: int, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
        x = torch.linspace(-3, 3, count)[:, None]
        return DataLoader(TensorDataset(x, x.sin()), batch_size=20, shuffle=shuffle)
