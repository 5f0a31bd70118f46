"""Resident memory of the processes of one machine that train on the same images.

    python -m benchmarks.memory [--ranks 1 2 4] [--num-images 60000]

Each process maps the cached pixels, as each rank of a run does, and gathers every image once. Shown
are, from Linux's count of the mapping: what one process alone holds of it (resident set) and what
all hold together, shared pages counted once (proportional set). Then, for one process, the time and
memory of an epoch of gathering as the number of images grows.
"""

import argparse
import multiprocessing
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.pipelines import own_batches, stand_in
from benchmarks.report import machine
from src.data.images import ImageDataModule, load_array, save_array
from src.data.in_memory import Arrays

MIB = 2**20
WAIT_S = 60
CPU = torch.device("cpu")


class Mapped(ImageDataModule):
    """Images of a file that is mapped, with labels of no meaning."""

    def __init__(self, path: Path) -> None:
        super().__init__(image_size_px=32, mean=(0.5,), std=(0.2,), batch_size=128, seed=0)
        self.path = path

    def load(self, source: str) -> Arrays:
        images = load_array(self.path)
        return Arrays(images, torch.zeros(len(images), dtype=torch.int64))


def mapping_mib(path: Path) -> tuple[float, float]:
    """Resident and proportional set of the mappings of a file in this process."""
    total, inside = {"Rss": 0, "Pss": 0}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if "-" in key.split()[0]:  # the addresses of another mapping
            inside = line.endswith(path.name)
        elif inside and key in total:
            total[key] += int(value.split()[0])
    return total["Rss"] / 1024, total["Pss"] / 1024


def gather(path: Path) -> tuple[float, Mapped]:
    """Gather every image once, as training does; return the seconds, and what holds the images."""
    torch.set_num_threads(1)
    data = Mapped(path)
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


def rank(path: Path, barrier: Barrier, results: Any) -> None:
    """Gather beside other processes, and measure while all hold the mapping."""
    _seconds, _data = gather(path)
    barrier.wait()
    results.put(mapping_mib(path))
    barrier.wait()


def together(path: Path, count: int) -> tuple[float, float]:
    """MiB of the pixels in one of ``count`` processes, and in all of them together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    processes = [context.Process(target=rank, args=(path, barrier, results)) for _ in range(count)]
    for process in processes:
        process.start()
    measured = [results.get(timeout=WAIT_S) for _ in processes]
    for process in processes:
        process.join()
    return max(r for r, _ in measured), sum(p for _, p in measured)


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
            one, total = together(path, count)
            alone = alone or total
            rows.append([str(count), f"{one:.0f}", f"{total:.0f}", f"{total / alone:.2f}"])
        columns = ["ranks", "MiB in one", "MiB in all", f"to {options.ranks[0]} rank(s)"]
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
