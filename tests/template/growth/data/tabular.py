"""Rows of a CSV file."""

import csv
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class TabularDataModule(LightningDataModule):
    """Serve a table of numbers under a line of names: all columns but the last, and the last.

    Args:
        data_dir: Folder of the table.
        name: Of its file.
        batch_size: Rows in a batch.
    """

    def __init__(self, data_dir: Path, name: str = "tabular.csv", batch_size: int = 8) -> None:
        super().__init__()
        self.path = data_dir / name
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        with self.path.open(newline="") as file:
            _, *rows = csv.reader(file)
        table = torch.tensor([[float(value) for value in row] for row in rows])
        self.table = TensorDataset(table[:, :-1], table[:, -1])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.table, self.batch_size, shuffle=True)
