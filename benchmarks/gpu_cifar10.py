"""On one GPU: images per second at three batch sizes, then time to accuracy of FastCNN.

    python -m benchmarks.gpu_cifar10 [--rounds 5] [--seeds 10] [--precision bf16-mixed] [--quick]

The first part is ``benchmarks.throughput`` at batch 128, 512 and 2048, in bfloat16. The second runs
``python -m src.train --config cifar10_fast``, with the images on the device, for each seed: test
accuracy, and the seconds of training (first to last step; start-up, validation and test are not
counted, nor the first seed, which warms up). ``--quick`` is both on a few images, to see that it
runs, on a CPU too.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.report import interleave, machine, show
from benchmarks.throughput import Contest
from src.train import main as train

QUICK = ["--data.subset", "2048", "--data.batch_size", "256", "--trainer.max_epochs", "1"]
QUICK += ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]


def time_to_accuracy(seed: int, options: list[str]) -> tuple[float, float]:
    """Train FastCNN with a seed: seconds of training, and accuracy on all test images."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        args = ["--config", "cifar10_fast", "--runs_dir", folder, "--run_name", "run"]
        train([*args, "--seed_everything", str(seed), *options])
        metrics = json.loads(next(Path(folder).glob("*/run/metrics.json")).read_text())
    return float(metrics["train_seconds"]), float(metrics["test/acc"])


def show_seeds(found: list[tuple[float, float]]) -> None:
    """Print mean, standard deviation, least and greatest over seeds."""
    table = Table(title=f"FastCNN, time to accuracy\n{machine()}", title_justify="left")
    for name in ("", "mean", "standard deviation", "least", "greatest", "n"):
        table.add_column(name, justify="right")
    seconds = [value for value, _ in found[1:]] or [found[0][0]]
    for name, values in {"seconds": seconds, "accuracy": [value for _, value in found]}.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        numbers = (statistics.mean(values), spread, min(values), max(values))
        table.add_row(name, *(f"{number:.4g}" for number in numbers), str(len(values)))
    Console(width=100).print(table)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    num_images = 2_048 if options.quick else 51_200
    for batch_size in (128, 512, 2048):
        contest = Contest(num_images, batch_size, bfloat16=True)
        contest.choose_workers()
        contenders = {n: getattr(contest, n) for n in ("raw", "tutorial", "typical", "ours")}
        found = interleave(contenders, 1 if options.quick else options.rounds)
        for base in ("raw", "typical"):
            show(f"images/s, bfloat16, batch {batch_size}", found, base)
    args = ["--trainer.precision", options.precision]
    args += QUICK if options.quick else []
    seeds = range(2 if options.quick else options.seeds)
    show_seeds([time_to_accuracy(seed, args) for seed in seeds])


if __name__ == "__main__":
    main()
