"""On one GPU, in parts of two minutes at most: images per second, profiles, time to accuracy.

    python -m benchmarks.gpu_cifar10 [--part PART ...] [--out FOLDER] [--rounds 2] [--epochs 6]
        [--also "OPTIONS"] [--seeds 5] [--workers 4] [--precision bf16-mixed]
        [--compile-mode max-autotune] [--data-dir data/cifar10] [--quick]

Parts, all where none is named; each prints a table and writes ``FOLDER/PART.json``:

- batch-128, batch-512, batch-2048: images per second of raw, typical and ours (see
  ``benchmarks.throughput``), and of ours with the options of ``--also``; the first epoch apart,
  and the most memory of the device.
- profile: 20 steps of raw and ours at batch 512: kernels, launches, host time, what takes it.
- default: ``--config cifar10``, a whole process, and one that only imports what it does.
- fast, fast-compiled, fast-also (with the options of ``--also``): FastCNN for each seed: test
  accuracy, and seconds of training, from the first step to the last, validation apart. The first
  few steps compile and warm up: they are counted as lasting as long as the others.

``--quick`` is all of it on a few images, to see that it runs, on a CPU too.
"""

import argparse
import contextlib
import cProfile
import io
import json
import pstats
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch.profiler import profile

from benchmarks.pipelines import Batches, now, own_batches, plain_loop
from benchmarks.report import machine
from benchmarks.throughput import Contest
from src.train import main as train

QUICK = ["--data.subset", "64", "--data.batch_size", "4", "--trainer.max_epochs", "1"]
QUICK += ["--data.val_batch_size", "4", "--trainer.limit_val_batches", "1"]
QUICK += ["--trainer.limit_test_batches", "1"]
IMPORTS = "import lightkeel.fit.fit, src.callbacks, src.data, src.models"
WARM_UP_STEPS = 10
PROFILED_STEPS = 20
TIMED, HERE = "seconds.json", "benchmarks.gpu_cifar10"
Found = dict[str, Any]


def throughput(batch_size: int, options: argparse.Namespace) -> Found:
    """Images per second of each contender, taken in turns: first epochs, and later ones."""
    contest = Contest(options.num_images, batch_size, True, options.data_dir)
    contest.num_workers = options.workers
    # Of the slow one fewer: two minutes are short.
    plan = {"raw": options.epochs, "ours": options.epochs, "typical": 2}
    plan |= {options.also: options.epochs} if options.also else {}
    contenders: dict[str, Any] = {name: getattr(contest, name, None) for name in plan}
    contenders[options.also] = lambda count: contest.ours(count, *shlex.split(options.also))
    found: Found = {name: {"first": [], "later": [], "memory_mib": []} for name in plan}
    for number in range(options.rounds):
        for name, num_epochs in plan.items():
            if name == "typical" and number:
                continue
            if contest.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            first, *later = contenders[name](num_epochs)
            found[name]["first"].append(first)
            found[name]["later"] += later
            if contest.device.type == "cuda":
                found[name]["memory_mib"].append(torch.cuda.max_memory_allocated() / 2**20)
    table = Table("contender", "first epoch", "later: median", "range", "to raw", "to typical", "n")
    medians = {name: statistics.median(values["later"]) for name, values in found.items()}
    for name, values in found.items():
        ratios = {f"to_{base}": medians[name] / medians[base] for base in ("raw", "typical")}
        values |= {"median": medians[name], **ratios}
        later = values["later"]
        numbers = (statistics.median(values["first"]), medians[name])
        spread = f"{min(later):,.0f}-{max(later):,.0f}"
        row = [*(f"{n:,.0f}" for n in numbers), spread, *(f"{r:.2f}" for r in ratios.values())]
        table.add_row(name, *row, str(len(later)))
    show(f"images/s, bfloat16, batch {batch_size}, {options.num_images} images", table)
    return found


class Profiler(Callback):
    """Profile some steps of training: what the device and the host do."""

    found: ClassVar[Found] = {}

    def __init__(self, first: int = WARM_UP_STEPS, steps: int = PROFILED_STEPS) -> None:
        self.first, self.steps, self.began = first, steps, 0.0
        self.kernels, self.calls = profile(), cProfile.Profile()

    def between(self, step: int, device: torch.device) -> None:
        """Time steps as they are, then those with each profiler."""
        first, second, third, last = (self.first + n * self.steps for n in range(4))
        if step in (first, second):
            moment = now(device)
            if step == second:
                Profiler.found["host_us_a_step"] = (moment - self.began) / self.steps * 1e6
                self.kernels.start()
            self.began = moment
        elif step == third:
            now(device)
            self.kernels.stop()
            Profiler.found.update(summary(self.kernels, self.steps))
            self.calls.enable()
        elif step == last:
            self.calls.disable()
            Profiler.found.update(functions(self.calls, self.steps))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.between(trainer.global_step, pl_module.device)


def summary(kernels: profile, steps: int) -> Found:
    """Count what was launched, and what took most of the device and of the host, in a step."""
    events = kernels.key_averages()
    # Regions with a name, such as `Optimizer.step#AdamW.step`, span what is counted already.
    on_device = [e for e in events if e.device_type.name != "CPU" and "#" not in e.key]
    host = [event for event in events if event.device_type.name == "CPU"]
    driver = {e.key: e.count / steps for e in host if e.key.startswith(("cuda", "cu"))}

    def longest(some: list[Any], name: str) -> list[str]:
        some = sorted(some, key=lambda event: -getattr(event, name))[:30]
        line = "{:9.1f} us {:6.2f} times  {}"
        return [line.format(getattr(e, name) / steps, e.count / steps, e.key[:90]) for e in some]

    return {
        "kernels_a_step": sum(event.count for event in on_device) / steps,
        "device_us_a_step": sum(event.self_device_time_total for event in on_device) / steps,
        "driver_calls_a_step": driver,
        "on_device": longest(on_device, "self_device_time_total"),
        "on_host": longest(host, "self_cpu_time_total"),
    }


def functions(calls: cProfile.Profile, steps: int) -> Found:
    """Count the calls of Python in a step, and list the functions that take most of it."""
    entries: dict[Any, Any] = pstats.Stats(calls).stats  # type: ignore[attr-defined]
    slowest = sorted(entries.items(), key=lambda entry: -entry[1][2])[:40]
    lines = [
        f"{own / steps * 1e6:9.1f} us {count / steps:6.1f} times  {Path(file).name}:{line} {name}"
        for (file, line, name), (_, count, own, *_) in slowest
    ]
    number = sum(count for _, count, *_ in entries.values()) / steps
    return {"python_calls_a_step": number, "python": lines}


def profiles(options: argparse.Namespace) -> Found:
    """Profile raw and ours at batch 512."""
    contest = Contest(options.num_images, 4 if options.quick else 512, True, options.data_dir)
    num_epochs = 5 if options.quick else 1
    num_steps = num_epochs * contest.num_steps

    def watched() -> Batches:
        profiler = Profiler()
        passes = (own_batches(contest.data, contest.device, n) for n in range(num_epochs))
        for step, batch in enumerate(chain.from_iterable(passes)):
            profiler.between(step, contest.device)
            yield batch

    found: dict[str, Found] = {}
    contenders: dict[str, Callable[[], Any]] = {
        "raw": lambda: plain_loop([watched()], num_steps, contest.device, True),
        "ours": lambda: contest.ours(num_epochs, "--trainer.callbacks+", f"{HERE}.Profiler"),
    }
    table = Table("", *contenders)
    for name, run in contenders.items():
        Profiler.found = found[name] = {}
        run()
    for key in ("host_us_a_step", "device_us_a_step", "kernels_a_step", "python_calls_a_step"):
        table.add_row(key, *(f"{values[key]:,.1f}" for values in found.values()))
    show("Profile, bfloat16, batch 512", table)
    for name, values in found.items():
        for key in ("driver_calls_a_step", "on_device", "on_host", "python"):
            print(f"\n{name}: {key}", *values[key], sep="\n  ")
    return found


def default_run(options: argparse.Namespace) -> Found:
    """Seconds of the whole process of ``--config cifar10``, and of one that only imports."""
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        args = ["--config", "cifar10", "--runs_dir", folder, "--run_name", "run"]
        args += ["--trainer.precision", options.precision, "--data.data_dir", options.data_dir]
        args += QUICK if options.quick else []
        for name, command in {"import": ["-c", IMPORTS], "run": ["-m", "src.train", *args]}.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            found[f"{name}_s"] = time.perf_counter() - began
        found |= json.loads(next(Path(folder).glob("*/run/metrics.json")).read_text())
    table = Table("", "seconds")
    for name, seconds in {**found, "beyond imports": found["run_s"] - found["import_s"]}.items():
        table.add_row(name, f"{seconds:,.4g}")
    show("--config cifar10", table)
    return found


class StepTimer(Callback):
    """Write the seconds from the first step to the last, in the folder of the run."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step == WARM_UP_STEPS:
            self._began = now(pl_module.device)
        elif trainer.global_step == trainer.estimated_stepping_batches:
            steps = trainer.global_step
            rate = (now(pl_module.device) - self._began) / (steps - WARM_UP_STEPS)
            (Path(trainer.default_root_dir) / TIMED).write_text(json.dumps(rate * steps))


def time_to_accuracy(seed: int, options: list[str]) -> Found:
    """Train FastCNN with a seed: seconds of training, and accuracy on all test images."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        args = ["--config", "cifar10_fast", "--runs_dir", folder, "--run_name", "run"]
        args += ["--trainer.callbacks+", f"{HERE}.StepTimer"]
        args += ["--trainer.check_val_every_n_epoch", "1000"]
        args += ["--callbacks.checkpoint.monitor", "null"]
        train([*args, "--seed_everything", str(seed), *options])
        (run,) = Path(folder).glob("*/run")
        metrics = json.loads((run / "metrics.json").read_text())
        seconds = float(json.loads((run / TIMED).read_text()))
    found = {"seconds": seconds, "accuracy": metrics["test/acc"]}
    found["with warm-up"] = metrics["train_seconds"]
    return {**found, "whole": time.perf_counter() - began}


def seeds(also: str, options: argparse.Namespace) -> Found:
    """Time to accuracy: mean, standard deviation, least and greatest over seeds."""
    chosen = ["--trainer.precision", options.precision, "--data.data_dir", options.data_dir]
    chosen += shlex.split(also)
    chosen += [*QUICK, "--model.widths", "[8,8,8]"] if options.quick else []
    runs = [time_to_accuracy(seed, chosen) for seed in range(options.seeds)]
    table = Table("", "mean", "standard deviation", "least", "greatest", "n")
    for name in runs[0]:
        values = [run[name] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        numbers = (statistics.mean(values), spread, min(values), max(values))
        table.add_row(name, *(f"{number:.4g}" for number in numbers), str(len(values)))
    show(f"FastCNN, time to accuracy, {also or 'not compiled'}", table)
    return {"options": also, "runs": runs}


def show(title: str, table: Table) -> None:
    """Print a table under its title and the machine it is of."""
    table.title, table.title_justify = f"{title}\n{machine()}", "left"
    Console(width=120).print(table)


PARTS: dict[str, Callable[[argparse.Namespace], Found]] = {
    **{f"batch-{n}": partial(throughput, n) for n in (128, 512, 2048)},
    "profile": profiles,
    "default": default_run,
    "fast": partial(seeds, ""),
    "fast-compiled": lambda o: seeds(f"--callbacks.compile.mode {o.compile_mode}", o),
    "fast-also": lambda options: seeds(options.also, options),
}


def main(args: Sequence[str] | None = None) -> None:
    """Measure the parts, print their tables and write their numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--also", default="", help="'--callbacks.compile.mode default', say")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4, help="of the per-sample pipeline")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--compile-mode", default="max-autotune")
    parser.add_argument("--data-dir", default="data/cifar10")
    parser.add_argument("--num-images", type=int, default=48_000)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(args)
    if options.quick:
        options.num_images, options.epochs, options.rounds, options.seeds = 64, 2, 1, 1
        options.workers = 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.part:
        began = time.perf_counter()
        found = {**PARTS[name](options), "machine": machine()}
        found["part_s"] = time.perf_counter() - began
        print(f"{name}: {found['part_s']:.1f} s", flush=True)
        (options.out / f"{name}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    from benchmarks.gpu_cifar10 import main as run  # whose callbacks are those that runs name

    run()
