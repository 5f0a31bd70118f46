"""Microseconds a step of linear regression, where the model itself costs next to nothing.

    python -m benchmarks.step_overhead [--rounds 5] [--steps 3000]

Contenders, all with the same model, optimizer and batches of 32, each for one epoch:

- raw: a plain PyTorch loop over this project's own batches: the limit.
- tutorial: a plain loop over ``TensorDataset`` and ``DataLoader``.
- typical: Lightning on these, with ``self.log`` in each step, rich bar, CSV logger, learning-rate
  monitor, gradient clipping and checkpoint.
- ours: ``python -m src.train`` itself, all its callbacks and loggers on.
"""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.pipelines import Batches, EpochTime, now, own_batches, plain_batches, stand_in
from benchmarks.report import interleave, show
from src.data import SyntheticRegressionDataModule
from src.train import main as train

BATCH_SIZE = 32
LR = 0.05
CPU = torch.device("cpu")


class TypicalModule(LightningModule):
    """Linear regression with ``self.log`` in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.mse_loss(self.network(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), LR)


class Contest:
    """The same samples for all contenders.

    Args:
        num_steps: Steps in an epoch.
    """

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.num_samples = num_steps * BATCH_SIZE
        self.data = SyntheticRegressionDataModule(
            num_samples=self.num_samples, batch_size=BATCH_SIZE, seed=0
        )
        self.data.trainer = stand_in(CPU)
        self.data.setup("fit")
        self.samples = TensorDataset(*self.data.read("train"))

    def raw(self) -> float:
        """Microseconds a step of the plain loop over this project's batches."""
        return self._plain(own_batches(self.data, CPU))

    def tutorial(self) -> float:
        """Microseconds a step of the plain loop over a ``DataLoader``."""
        return self._plain(plain_batches(self._loader(), CPU))

    def typical(self) -> float:
        """Microseconds a step of a template's Lightning set-up."""
        timer = EpochTime()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            trainer = Trainer(
                default_root_dir=folder,
                max_epochs=1,
                accelerator="cpu",
                gradient_clip_val=10.0,
                logger=CSVLogger(folder),
                callbacks=[RichProgressBar(), LearningRateMonitor("step"), timer],
                enable_model_summary=False,
            )
            trainer.fit(TypicalModule(), self._loader())
        return timer.seconds[0] / self.num_steps * 1e6

    def ours(self) -> float:
        """Microseconds a step that the run itself reports."""
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            args = ["--config", "linear_regression", "--runs_dir", folder, "--run_name", "run"]
            args += ["--data.num_samples", str(self.num_samples), "--trainer.max_epochs", "1"]
            train(args)
            metrics = json.loads(next(Path(folder).glob("*/run/metrics.json")).read_text())
        return float(metrics["train_seconds"]) / self.num_steps * 1e6

    def _plain(self, batches: Batches) -> float:
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), LR)
        began = now(CPU)
        for inputs, targets in batches:
            loss = F.mse_loss(net(inputs), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return (now(CPU) - began) / self.num_steps * 1e6

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(self.samples, BATCH_SIZE, shuffle=True)


def network() -> nn.Module:
    """Build the network of ``LinearRegression``."""
    return nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000)
    options = parser.parse_args()
    contest = Contest(options.steps)
    contenders = {n: getattr(contest, n) for n in ("raw", "tutorial", "typical", "ours")}
    found = interleave(contenders, options.rounds)
    show(f"microseconds a step, linear regression, {options.steps} steps", found, "raw")
    added = {n: [v - r for v, r in zip(found[n], found["raw"], strict=True)] for n in found}
    del added["raw"]
    show("microseconds a step beyond raw", added, "typical")


if __name__ == "__main__":
    main()
