"""Seconds from the start of a process to its first optimizer step, and to an error message.

    python -m benchmarks.startup [--rounds 5]

Compared with what cannot be avoided, ``import lightning.pytorch``:

- import: ``python -c "import lightning.pytorch"``.
- first step: ``python -m src.train --trainer.max_steps 1``, until that step has been taken.
- error: ``python -m src.train --trainer.max_epoch 3``, an option that is misspelt, whole.

Then, in this process, how long it takes until image files can be trained on: decoded at the first
start, and mapped from the cache at the second.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from benchmarks.report import interleave, show
from lightkeel.data.decoding import decode

CLOCK = "BENCHMARK_PROCESS_STARTED"


class FirstStep(Callback):
    """Print how long ago the process was started, when the first batch has been trained on."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        print(f"first step after {time.time() - float(os.environ[CLOCK])} s", flush=True)


def run(*args: str) -> tuple[float, str]:
    """Run Python with arguments: whole seconds, and what it printed."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, *args],
        env={**os.environ, CLOCK: str(began)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return time.time() - began, done.stdout


def imported() -> float:
    """Seconds of the import."""
    return run("-c", "import lightning.pytorch")[0]


def first_step() -> float:
    """Seconds to the first optimizer step of the default run."""
    with tempfile.TemporaryDirectory() as folder:
        args = ["--runs_dir", folder, "--trainer.max_epochs", "1", "--data.num_samples", "32"]
        timer = ["--trainer.callbacks", "benchmarks.startup.FirstStep"]
        _, printed = run("-m", "src.train", "--config", "linear_regression", *args, *timer)
    (line,) = (line for line in printed.splitlines() if line.startswith("first step after"))
    return float(line.split()[3])


def error() -> float:
    """Seconds to the message about a misspelt option, and the end of the process."""
    seconds, printed = run("-m", "src.train", "--trainer.max_epoch", "3")
    assert "Did you mean `max_epochs`?" in printed, printed
    return seconds


class Images:
    """A folder of JPEG files, 32 x 32 pixels as CIFAR-10's.

    Args:
        folder: An empty folder.
        count: Number of files.
    """

    def __init__(self, folder: str, count: int) -> None:
        self.cache = Path(folder) / "cache"
        self.files = [Path(folder) / f"{number:06d}.jpg" for number in range(count)]
        random = np.random.default_rng(0)
        for file in self.files:
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, quality=75)

    def first(self) -> float:
        """Seconds of the first start: all files are decoded."""
        shutil.rmtree(self.cache, ignore_errors=True)
        return self.again()

    def again(self) -> float:
        """Seconds of a later start, until every pixel has been read."""
        began = time.perf_counter()
        decode(self.files, 32, self.cache).numpy().max()
        return time.perf_counter() - began


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-images", type=int, default=10_000)
    options = parser.parse_args()
    contenders = {"import": imported, "first step": first_step, "error": error}
    show("seconds", interleave(contenders, options.rounds), "import")
    with tempfile.TemporaryDirectory() as folder:
        images = Images(folder, options.num_images)
        starts = {"first start": images.first, "second start": images.again}
        found = interleave(starts, options.rounds)
    show(f"seconds, {options.num_images} image files", found, "first start")


if __name__ == "__main__":
    main()
