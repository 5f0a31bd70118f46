"""Microseconds a step of a module that somebody else wrote, as Lightning's documentation shows it.

    python -m benchmarks.foreign_module [--rounds 5] [--steps 3000]

Linear regression on batches of 32, with two values logged in each step. Contenders:

- raw: a plain PyTorch loop over the same loader: the limit.
- lightning: ``Trainer`` with its own bar, checkpoint and CSV logger.
- ours: ``python -m src.train`` with all its callbacks and loggers.
- switched off: the same without ``lightkeel.fit.fastpath``.
"""

import argparse
import importlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from benchmarks.report import interleave, show
from src.train import main as train

BATCH_SIZE, LR = 32, 0.05


class Foreign(LightningModule):
    """Linear regression with two values a step, which notes how long an epoch takes."""

    seconds = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs)
        return outputs.flatten()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        outputs = self(batch[0])
        loss = F.mse_loss(outputs, batch[1])
        error = (outputs.detach() - batch[1]).abs().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train_error", error, on_step=True, on_epoch=True)
        return loss

    def on_train_epoch_start(self) -> None:
        Foreign.seconds = -time.perf_counter()

    def on_train_epoch_end(self) -> None:
        Foreign.seconds += time.perf_counter()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), LR)


class Points(LightningDataModule):
    """Points on a line, a batch at once, so that the loader costs little.

    Args:
        num_steps: Batches in an epoch.
    """

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps

    def train_dataloader(self) -> DataLoader[Any]:
        inputs = torch.randn(self.num_steps * BATCH_SIZE, 2, generator=torch.Generator())
        samples = TensorDataset(inputs, inputs @ torch.tensor([2.0, -3.4]) + 4.2)
        batches = BatchSampler(SequentialSampler(samples), BATCH_SIZE, drop_last=False)
        return DataLoader(samples, batch_size=None, sampler=batches)


class Contest:
    """The same module and data for all.

    Args:
        num_steps: Steps in an epoch.
    """

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def raw(self) -> float:
        """Microseconds a step of a plain loop."""
        module, loader = Foreign(), Points(self.num_steps).train_dataloader()
        optimizer: Any = module.configure_optimizers()
        module.on_train_epoch_start()
        for inputs, targets in loader:
            loss = F.mse_loss(module(inputs), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        module.on_train_epoch_end()
        return self._per_step()

    def lightning(self) -> float:
        """Microseconds a step under ``Trainer``."""
        with in_silence() as folder:
            trainer = Trainer(
                default_root_dir=folder,
                max_epochs=1,
                accelerator="cpu",
                logger=CSVLogger(folder),
                enable_model_summary=False,
            )
            trainer.fit(Foreign(), datamodule=Points(self.num_steps))
        return self._per_step()

    def ours(self) -> float:
        """Microseconds a step under ``python -m src.train``."""
        config = {
            "model": {"class_path": f"{__name__}.Foreign"},
            "data": {
                "class_path": f"{__name__}.Points",
                "init_args": {"num_steps": self.num_steps},
            },
            "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        }
        with in_silence() as folder:
            path = folder / "foreign.yaml"
            path.write_text(yaml.safe_dump(config))
            assert train(["--config", str(path), "--runs_dir", str(folder)]) == 0
        return self._per_step()

    def switched_off(self) -> float:
        """Microseconds a step with nothing of Lightning's replaced."""
        with patch.dict(os.environ, LIGHTKEEL_FASTPATH="0"):
            return self.ours()

    def _per_step(self) -> float:
        return Foreign.seconds / self.num_steps * 1e6


@contextmanager
def in_silence() -> Iterator[Path]:
    """Make a folder, and print nothing."""
    out, err = (redirect(io.StringIO()) for redirect in (redirect_stdout, redirect_stderr))
    with tempfile.TemporaryDirectory() as folder, out, err:
        yield Path(folder)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000)
    options = parser.parse_args()
    contest = Contest(options.steps)
    names = ("raw", "lightning", "ours", "switched_off")
    found = interleave({name: getattr(contest, name) for name in names}, options.rounds)
    title = f"microseconds a step of somebody else's module, {options.steps} steps"
    show(title, found, "raw")
    show("the same, to ours", found, "ours")


if __name__ == "__main__":
    importlib.import_module("benchmarks.foreign_module").main()  # whose classes the command finds
