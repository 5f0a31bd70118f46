"""Resident memory of the processes of one machine that train on the same images.

    python -m benchmarks.memory [--ranks 1 2 4] [--num-images 60000]

Each row is a run, ``python -m src.train --trainer.devices N``, that trains a small network on each
image once. Shown is Linux's count of the mapped pixels when the epoch is over: what one rank holds
(resident set) and what all hold together, shared pages counted once (proportional set); and the
latter for all memory of the ranks. Then, for one process, the time and memory of gathering each
image once, as the number of images grows.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from benchmarks.pipelines import own_batches, stand_in
from benchmarks.report import machine
from lightkeel.data.array_file import load_array, save_array
from lightkeel.data.images import ImageDataModule
from lightkeel.data.in_memory import Arrays

MIB = 2**20
WAIT_S = 60
CPU = torch.device("cpu")


class Mapped(ImageDataModule):
    """Images of a file that is mapped, with labels of no meaning."""

    num_classes = 10

    def __init__(self, path: str, batch_size: int = 128) -> None:
        super().__init__(32, mean=(0.5,), std=(0.2,), batch_size=batch_size, seed=0)
        self.path = Path(path)

    def load(self, source: str) -> Arrays:
        images = load_array(self.path)
        return Arrays(images, torch.zeros(len(images), dtype=torch.int64))


class Report(Callback):
    """Write what each rank holds of the pixels, and in all, while all ranks hold it."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        trainer.strategy.barrier()
        held = {"pixels": mapping_mib(data.path), "all": mapping_mib()}
        trainer.strategy.barrier()
        data.path.with_suffix(f".{trainer.global_rank}.json").write_text(json.dumps(held))


def mapping_mib(path: Path | None = None) -> tuple[float, float]:
    """Resident and proportional set of this process, of the mappings of a file or of all."""
    total, inside = {"Rss": 0, "Pss": 0}, path is None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if path and "-" in key.split()[0]:  # the addresses of another mapping
            inside = line.endswith(path.name)
        elif inside and key in total:
            total[key] += int(value.split()[0])
    return total["Rss"] / 1024, total["Pss"] / 1024


def gather(path: Path) -> tuple[float, Mapped]:
    """Gather every image once, as training does; return the seconds, and what holds the images."""
    torch.set_num_threads(1)
    data = Mapped(str(path))
    data.trainer = stand_in(CPU)
    data.setup("fit")
    began = time.perf_counter()
    for _ in own_batches(data, CPU):
        pass
    return time.perf_counter() - began, data


def anonymous_mib() -> float:
    """Memory of this process that is not that of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) / 1024


def measure(path: Path, results: Any) -> None:
    """Gather, and tell the seconds and the memory that came on top."""
    before = anonymous_mib()
    seconds, _data = gather(path)
    results.put((seconds, anonymous_mib() - before))


def apart(path: Path) -> tuple[float, float]:
    """Seconds of gathering in a new process, and the MiB it needs beside the pixels."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=measure, args=(path, results))
    process.start()
    measured: tuple[float, float] = results.get(timeout=WAIT_S)
    process.join()
    return measured


def together(path: Path, count: int) -> tuple[float, float, float]:
    """MiB of the pixels in one of ``count`` ranks and in all of them; and of all their memory."""
    with tempfile.TemporaryDirectory() as folder:
        args = ["--model", "SimpleCNN", "--model.channels", "[4]", "--runs_dir", folder]
        args += ["--data", "benchmarks.memory.Mapped", "--data.path", str(path)]
        args += ["--trainer.accelerator", "cpu", "--trainer.devices", str(count)]
        args += ["--trainer.strategy", "ddp" if count > 1 else "auto", "--trainer.max_epochs", "1"]
        args += ["--trainer.limit_val_batches", "0", "--trainer.limit_test_batches", "1"]
        args += ["--trainer.callbacks", "benchmarks.memory.Report"]
        command = [sys.executable, "-m", "src.train", "--config", str(empty(folder)), *args]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    files = [path.with_suffix(f".{rank}.json") for rank in range(count)]
    held = [json.loads(file.read_text()) for file in files]
    for file in files:
        file.unlink()
    pixels = [h["pixels"] for h in held]
    return max(r for r, _ in pixels), sum(p for _, p in pixels), sum(h["all"][1] for h in held)


def empty(folder: str) -> Path:
    """Write a config that holds no experiment of its own."""
    path = Path(folder) / "memory.yaml"
    path.write_text("seed_everything: 0\n")
    return path


def make(folder: str, num_images: int) -> Path:
    """Write a file of random pixels."""
    path = Path(folder) / f"{num_images}.npy"
    pixels = np.random.default_rng(0).integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8)
    save_array(pixels, path)
    return path


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    shown = Table(*columns, title=f"{title}\n{machine()}", title_justify="left")
    for row in rows:
        shown.add_row(*row)
    Console(width=100).print(shown)


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--num-images", type=int, default=60_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = make(folder, options.num_images)
        size = path.stat().st_size / MIB
        rows, alone = [], 0.0
        for count in options.ranks:
            one, total, everything = together(path, count)
            alone = alone or total
            cells = (f"{one:.0f}", f"{total:.0f}", f"{total / alone:.2f}", f"{everything:.0f}")
            rows.append([str(count), *cells])
        first = f"to {options.ranks[0]} rank(s)"
        columns = ["ranks", "pixels in one, MiB", "in all", first, "all memory"]
        table(f"resident pixels of a file of {size:.0f} MiB", columns, rows)
        path.unlink()
        rows = []
        for factor in (1, 4, 16):
            path = make(folder, options.num_images // 4 * factor)
            images = options.num_images // 4 * factor
            seconds, anonymous = apart(path)
            rate = seconds / images * 1e6
            rows.append([f"{images:,}", f"{seconds:.2f}", f"{rate:.1f}", f"{anonymous:.0f}"])
            path.unlink()
        columns = ["images", "seconds", "microseconds an image", "MiB beside the pixels"]
        table("gathering one epoch in a process of its own", columns, rows)


if __name__ == "__main__":
    main()
