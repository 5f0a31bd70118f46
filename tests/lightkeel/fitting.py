"""Short runs on the CPU, and what they log."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from lightkeel.data.in_memory import Arrays, InMemoryDataModule
from src.models.supervised import SupervisedModule


class Rows(Logger):
    """Keep the rows a run logs: (step, values)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "rows"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are no rows."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.append((step, dict(metrics)))

    def column(self, name: str) -> dict[int, float]:
        """Value at each step whose row has the metric."""
        return {step: values[name] for step, values in self.rows if name in values}


class Given(InMemoryDataModule):
    """Serve the same given samples, in order, in training, validation and test."""

    def __init__(self, inputs: Tensor, targets: Tensor, **kwargs: Any) -> None:
        super().__init__(**{"shuffle": False, **kwargs})
        self.arrays = Arrays(inputs, targets)

    def load(self, source: str) -> Arrays:
        return self.arrays


class FourSamples(IterableDataset[tuple[Tensor, Tensor]]):
    """Zeros, of which nobody knows that they are four."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(torch.zeros(4, 1), torch.zeros(4), strict=True)


class Stream(LightningDataModule):
    """Serve an ``IterableDataset`` without a length."""

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return DataLoader(FourSamples())


def noisy_line(num_samples: int, **settings: Any) -> Given:
    """Serve samples of a linear function of two features with noise, shuffled anew each epoch."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_samples, 2, generator=random)
    noise = torch.randn(num_samples, generator=random)
    targets = inputs @ torch.tensor([2.0, -3.4]) + 4.2 + noise
    return Given(inputs, targets, **{"shuffle": True, "seed": 1, **settings})


class Line(SupervisedModule):
    """``x @ w + b`` from (B, F) to (B,), starting at zero."""

    def __init__(self, num_features: int = 1, bias: bool = True, **kwargs: Any) -> None:
        layer = nn.Linear(num_features, 1, bias)
        super().__init__(nn.Sequential(layer, nn.Flatten(0)), F.mse_loss, {}, **kwargs)
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        self.layer = layer

    @property
    def weights(self) -> list[float]:
        """Weights, then the bias."""
        return [value for p in self.layer.parameters() for value in p.flatten().tolist()]


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """Build a trainer that prints nothing, and validates or writes only where asked to."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
        "logger": False,
        "max_epochs": -1 if "max_steps" in options else 1,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**settings, **options})


def fit(
    folder: Path,
    model: LightningModule,
    data: LightningDataModule | None,
    *callbacks: Callback,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Trainer:
    """Train with a trainer as above, and return it."""
    made = trainer(folder, *callbacks, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        warnings.filterwarnings("ignore", ".*but have no `val(idation_step|_dataloader)`")
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", ".*is smaller than the logging interval")
        warnings.filterwarnings("ignore", r".*optimizer_\{step,zero_grad\}")
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
        made.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return made
