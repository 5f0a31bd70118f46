"""Images per second of SimpleCNN on CIFAR-10 with crop and flip, against what is usual.

    python -m benchmarks.throughput [--rounds 5] [--precision float32 bfloat16] [--batch-size 128]
        [--data-dir data/cifar10]

Where ``data-dir`` is not there, images of the same size are made on the spot.

Contenders, all with the same network, optimizer and schedule, each for one epoch:

- raw: a plain PyTorch loop over this project's own batches and augmentation: the limit.
- tutorial: a plain loop over torchvision's per-sample pipeline, with the number of worker processes
  (0, 1, 2, 4) that was fastest.
- typical: Lightning on that pipeline, with a metric and ``self.log`` in each step, rich bar and
  checkpoint, as templates do.
- ours: ``python -m src.train --config cifar10`` itself (or ``cifar10_synthetic``), callbacks and
  loggers on, clipping too, which raw and tutorial leave out.

Time is that of training: validation, start-up and a first round to warm up are not counted.
"""

import argparse
import contextlib
import csv
import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch.utils.data import DataLoader

from benchmarks.pipelines import (
    EpochTime,
    PerSample,
    TypicalModule,
    network,
    own_batches,
    plain_batches,
    plain_loop,
    stand_in,
)
from benchmarks.report import interleave, show
from lightkeel.data.in_memory import InMemoryDataModule
from src.data import CIFAR10DataModule, SyntheticImageDataModule
from src.train import main as train

WORKERS = (0, 1, 2, 4)
AUGMENT: dict[str, Any] = {"random_crop": {"pad_px": 2}, "horizontal_flip": {"probability": 0.5}}


class Contest:
    """The same images and device for all contenders.

    Args:
        num_images: Images in an epoch.
        batch_size: Images in a step.
        bfloat16: Use mixed precision.
        data_dir: Folder of CIFAR-10; images are made on the spot where it is not there.
    """

    def __init__(self, num_images: int, batch_size: int, bfloat16: bool, data_dir: str) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.num_steps = -(-num_images // batch_size)
        self.bfloat16 = bfloat16
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        settings: dict[str, Any] = {"batch_size": batch_size, "augment": AUGMENT, "seed": 0}
        self.data: InMemoryDataModule
        if Path(data_dir).exists():
            self.images = "CIFAR-10"
            self.options = ["--config", "cifar10", "--data.data_dir", data_dir]
            self.options += ["--data.subset", str(num_images)]
            self.data = CIFAR10DataModule(data_dir, 0.04, subset=num_images, **settings)
        else:
            self.images = "made on the spot"
            self.options = ["--config", "cifar10_synthetic", "--data.num_samples", str(num_images)]
            self.data = SyntheticImageDataModule(num_samples=num_images, **settings)
        self.data.trainer = stand_in(self.device)
        self.data.prepare_data()
        self.data.setup("fit")
        dataset = self.data.datasets["train"]
        self.samples = PerSample(*(array[dataset.rows] for array in dataset.arrays))
        self.num_workers = 0

    def raw(self, num_epochs: int = 1) -> list[float]:
        """Images per second, by epoch, of the plain loop over this project's batches."""
        epochs = (own_batches(self.data, self.device, epoch) for epoch in range(num_epochs))
        return self._rates(plain_loop(epochs, *self._loop_options(num_epochs)))

    def tutorial(self, num_epochs: int = 1, num_workers: int | None = None) -> list[float]:
        """Images per second of the plain loop over the per-sample pipeline."""
        loader = self._loader(self.num_workers if num_workers is None else num_workers)
        epochs = (plain_batches(loader, self.device) for _ in range(num_epochs))
        return self._rates(plain_loop(epochs, *self._loop_options(num_epochs)))

    def typical(self, num_epochs: int = 1) -> list[float]:
        """Images per second of a template's Lightning set-up on the per-sample pipeline."""
        timer = EpochTime()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            trainer = Trainer(
                default_root_dir=folder,
                max_epochs=num_epochs,
                accelerator="auto",
                devices=1,
                precision="bf16-mixed" if self.bfloat16 else "32-true",
                callbacks=[RichProgressBar(), timer],
                enable_model_summary=False,
            )
            module = TypicalModule(network(), self.num_steps * num_epochs)
            trainer.fit(module, self._loader(self.num_workers))
        return self._rates(timer.seconds)

    def ours(self, num_epochs: int = 1, *options: str) -> list[float]:
        """Images per second that the run itself reports."""
        precision = "bf16-mixed" if self.bfloat16 else "32-true"
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            args = [*self.options, "--runs_dir", folder, "--run_name", "run"]
            args += ["--trainer.max_epochs", str(num_epochs), *options]
            args += ["--data.batch_size", str(self.batch_size), "--trainer.precision", precision]
            train(args)
            with next(Path(folder).glob("*/run/metrics.csv")).open() as file:
                rates = [row["samples_per_s"] for row in csv.DictReader(file)]
        return [float(rate) for rate in rates if rate]

    def _loop_options(self, num_epochs: int) -> tuple[int, torch.device, bool]:
        return self.num_steps * num_epochs, self.device, self.bfloat16

    def _rates(self, seconds: list[float]) -> list[float]:
        return [self.num_images / each for each in seconds]

    def choose_workers(self) -> None:
        """Give the per-sample pipeline the number of worker processes that is best for it."""
        rates = {count: self.tutorial(1, count)[0] for count in WORKERS}
        self.num_workers = max(rates, key=lambda count: rates[count])
        print("images/s by worker processes:", {n: round(rate) for n, rate in rates.items()})

    def _loader(self, num_workers: int) -> DataLoader[Any]:
        pin = self.device.type == "cuda"
        return DataLoader(
            self.samples, self.batch_size, shuffle=True, num_workers=num_workers, pin_memory=pin
        )


def first_epoch(measure: Callable[[], list[float]]) -> float:
    """Measure a contender for one epoch."""
    return measure()[0]


def main() -> None:
    """Measure, and print a table for each precision."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-images", type=int, default=12_800)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--data-dir", default="data/cifar10")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    for precision in options.precision:
        bfloat16 = precision == "bfloat16"
        contest = Contest(options.num_images, options.batch_size, bfloat16, options.data_dir)
        contest.choose_workers()
        names = ("raw", "tutorial", "typical", "ours")
        contenders = {n: partial(first_epoch, getattr(contest, n)) for n in names}
        found = interleave(contenders, options.rounds)
        title = f"images/s, {precision}, batch {options.batch_size}, {options.num_images} images"
        title += f" ({contest.images})"
        for base in ("raw", "typical"):
            show(f"{title}, {contest.num_workers} workers", found, base)


if __name__ == "__main__":
    main()
