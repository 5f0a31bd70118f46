"""On one GPU: images per second at three batch sizes, then time to accuracy of FastCNN.

    python -m benchmarks.gpu_cifar10 [--rounds 5] [--seeds 10] [--precision bf16-mixed]
        [--compile-mode max-autotune] [--data-dir data/cifar10] [--quick]

The first part is ``benchmarks.throughput`` at batch 128, 512 and 2048, in bfloat16. The second runs
``python -m src.train --config cifar10_fast`` for each seed: test accuracy, and the seconds of
training, from the first step to the last. The first few steps compile and warm up: they are counted
as lasting as long as the others. Validation comes after the last step. ``--quick`` is both on a few
images, to see that it runs, on a CPU too.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from benchmarks.pipelines import now
from benchmarks.report import interleave, machine, show
from benchmarks.throughput import Contest
from src.train import main as train

QUICK = ["--data.subset", "64", "--data.batch_size", "4", "--trainer.max_epochs", "1"]
QUICK += ["--data.val_batch_size", "4", "--model.widths", "[8,8,8]"]
QUICK += ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]
WARM_UP_STEPS = 10
TIMED = "seconds.json"


class StepTimer(Callback):
    """Write the seconds from the first step to the last, in the folder of the run."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == WARM_UP_STEPS:
            self._began = now(pl_module.device)
        elif trainer.global_step == trainer.estimated_stepping_batches:
            steps = trainer.global_step
            rate = (now(pl_module.device) - self._began) / (steps - WARM_UP_STEPS)
            (Path(trainer.default_root_dir) / TIMED).write_text(json.dumps(rate * steps))


def time_to_accuracy(seed: int, options: list[str]) -> tuple[float, float]:
    """Train FastCNN with a seed: seconds of training, and accuracy on all test images."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        args = ["--config", "cifar10_fast", "--runs_dir", folder, "--run_name", "run"]
        args += ["--trainer.callbacks", "benchmarks.gpu_cifar10.StepTimer"]
        args += [
            "--trainer.check_val_every_n_epoch",
            "1000",
            "--callbacks.checkpoint.monitor",
            "null",
        ]
        train([*args, "--seed_everything", str(seed), *options])
        (run,) = Path(folder).glob("*/run")
        metrics = json.loads((run / "metrics.json").read_text())
        return float(json.loads((run / TIMED).read_text())), float(metrics["test/acc"])


def show_seeds(found: list[tuple[float, float]]) -> None:
    """Print mean, standard deviation, least and greatest over seeds."""
    table = Table(title=f"FastCNN, time to accuracy\n{machine()}", title_justify="left")
    for name in ("", "mean", "standard deviation", "least", "greatest", "n"):
        table.add_column(name, justify="right")
    seconds, accuracy = zip(*found, strict=True)
    for name, values in {"seconds": seconds, "accuracy": accuracy}.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        numbers = (statistics.mean(values), spread, min(values), max(values))
        table.add_row(name, *(f"{number:.4g}" for number in numbers), str(len(values)))
    Console(width=100).print(table)


def main(args: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--compile-mode", default="max-autotune", help="or null")
    parser.add_argument("--data-dir", default="data/cifar10")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(args)
    num_images = 64 if options.quick else 48_000
    for batch_size in (128, 512, 2048):
        contest = Contest(num_images, batch_size, True, options.data_dir)
        contest.choose_workers()
        contenders = {n: getattr(contest, n) for n in ("raw", "tutorial", "typical", "ours")}
        found = interleave(contenders, 1 if options.quick else options.rounds)
        for base in ("raw", "typical"):
            show(f"images/s, bfloat16, batch {batch_size}", found, base)
    chosen = ["--trainer.precision", options.precision, "--data.data_dir", options.data_dir]
    if options.compile_mode != "null":
        chosen += ["--callbacks.compile.mode", options.compile_mode]
    chosen += QUICK if options.quick else []
    seeds = range(2 if options.quick else options.seeds)
    show_seeds([time_to_accuracy(seed, chosen) for seed in seeds])


if __name__ == "__main__":
    main()
