"""Seconds from the start of a process to its first optimizer step, and to an error message.

    python -m benchmarks.startup [--rounds 5]

Compared with what cannot be avoided, ``import lightning.pytorch``:

- import: ``python -c "import lightning.pytorch"``.
- first step: ``python -m src.train --trainer.max_steps 1``, until that step has been taken.
- error: ``python -m src.train --trainer.max_epoch 3``, an option that is misspelt, whole.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.report import interleave, show

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


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    contenders = {"import": imported, "first step": first_step, "error": error}
    show("seconds", interleave(contenders, options.rounds), "import")


if __name__ == "__main__":
    main()
