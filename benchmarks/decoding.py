"""Decoding of photographs to squares of bytes, beside torchvision's own reader.

    python -m benchmarks.decoding [--rounds 5] [--size-px 224] [--memory 1000 5000 20000]

Noise with the spectrum of photographs, as JPEG of quality 90. Ours decodes them into a new file and
maps it; torchvision's ``decode_image``, ``Resize`` and ``CenterCrop`` work in threads, and in the
workers of a ``DataLoader``, into memory. Each of its threads computes by itself: it is faster.

With ``--memory``, runs of ``src.train`` decode as many files and train ten steps on them. Shown is
what Linux counts of such a process: the most it held of its own (anonymous memory), and that with
the pages of files, which the system takes back when it needs them.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import (  # type: ignore[attr-defined]
    CenterCrop,
    Compose,
    Resize,
)

from benchmarks.report import interleave, machine, show
from lightkeel.data.decoding import decode

# Width x height: files, and how often each is decoded in a round.
SOURCES = {
    "340 x 256": (80, 10),
    "500 x 375": (60, 8),
    "1500 x 1125": (24, 3),
    "4000 x 3000": (8, 1),
}


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Make noise whose amplitude falls with frequency, as in photographs."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    amplitude = np.maximum(frequency, 1 / max(width, height)) ** -1.2
    noise = [random.normal(size=(3, *amplitude.shape)) for _ in "ri"]
    shades = np.fft.irfft2(amplitude * (noise[0] + 1j * noise[1]), s=(height, width))
    shades = 0.8 * shades[:1] + 0.4 * shades
    pixels = 128 + 60 * shades / shades.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


class Files(Dataset[Tensor]):
    """Images as torchvision's documentation reads them."""

    def __init__(self, files: list[Path], size_px: int) -> None:
        self.files = files
        self.scale = Compose([Resize(size_px, antialias=True), CenterCrop(size_px)])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.scale(decode_image(str(self.files[index]), ImageReadMode.RGB))  # type: ignore[no-any-return]


def ours(files: list[Path], size_px: int, cache: Path) -> None:
    """Decode into a file."""
    shutil.rmtree(cache, ignore_errors=True)
    assert len(decode(files, size_px, cache)) == len(files)


def in_threads(dataset: Files) -> None:
    """Decode in as many threads as there are cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(before) as pool:
        torch.stack(list(pool.map(dataset.__getitem__, range(len(dataset)))))
    torch.set_num_threads(before)


def in_workers(dataset: Files) -> None:
    """Decode in as many processes as there are cores."""
    loader = DataLoader(dataset, batch_size=32, num_workers=torch.get_num_threads())
    torch.cat(list(loader))


def rate(work: Callable[[], None], count: int) -> float:
    """Images in a second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def memory(counts: list[int], size_px: int) -> None:
    """Print what runs hold that decode as many images and train on them."""
    shown = Table(
        "images", "decoded, MB", "its own, MB", "with files, MB", "seconds", title=machine()
    )
    with tempfile.TemporaryDirectory() as folder:
        sources = [Path(folder) / f"{seed}.jpg" for seed in range(200)]
        for seed, file in enumerate(sources):
            photograph(340, 256, seed).save(file, quality=90)
        (Path(folder) / "memory.yaml").write_text("seed_everything: 0\n")
        for count in counts:
            root = Path(folder) / str(count)
            for number in range(count):
                link = root / "ab"[number % 2] / f"{number}.jpg"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(sources[number % len(sources)])
            began = time.perf_counter()
            own, with_files = most_memory(command(folder, root, size_px))
            seconds = f"{time.perf_counter() - began:.0f}"
            decoded = count * size_px**2 * 3 / 1e6
            shown.add_row(
                f"{count:,}", f"{decoded:.0f}", f"{own:.0f}", f"{with_files:.0f}", seconds
            )
            shutil.rmtree(root)
    Console(width=100).print(shown)


def command(folder: str, root: Path, size_px: int) -> list[str]:
    """Start a run of ten steps on the images in a folder."""
    args = [sys.executable, "-m", "src.train", "--model", "SimpleCNN", "--model.channels", "[4]"]
    args += ["--config", f"{folder}/memory.yaml", "--runs_dir", f"{folder}/runs"]
    args += ["--data", "ImageFolderDataModule", "--data.roots", f"[{root}]"]
    args += ["--data.image_size_px", str(size_px), "--model.image_size_px", str(size_px)]
    args += ["--model.num_classes", "2", "--data.batch_size", "32", "--trainer.max_steps", "10"]
    args += ["--trainer.accelerator", "cpu", "--trainer.limit_test_batches", "2"]
    return [*args, "--trainer.limit_val_batches", "2"]


def most_memory(started: list[str]) -> tuple[float, float]:
    """Run a command, and tell how much of its own memory it had at most, and with files; in MB."""
    most = {"RssAnon": 0, "VmHWM": 0}
    process = subprocess.Popen(started, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in most:
                most[name] = max(most[name], int(value.split()[0]))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(process.returncode)
    return most["RssAnon"] * 1024 / 1e6, most["VmHWM"] * 1024 / 1e6


def main() -> None:
    """Measure, and print a table for each size of the sources."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size-px", type=int, default=224)
    parser.add_argument("--memory", type=int, nargs="+", metavar="IMAGES")
    options = parser.parse_args()
    if options.memory:
        memory(options.memory, options.size_px)
        return
    for name, (number, times) in SOURCES.items():
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{n}.jpg" for n in range(number)]
            for seed, file in enumerate(files):
                width, height = map(int, name.split(" x "))
                photograph(width, height, seed).save(file, quality=90)
            files *= times
            dataset = Files(files, options.size_px)
            works = {
                "ours": partial(ours, files, options.size_px, Path(folder) / "cache"),
                "torchvision, threads": partial(in_threads, dataset),
                "torchvision, workers": partial(in_workers, dataset),
            }
            contenders = {n: partial(rate, work, len(files)) for n, work in works.items()}
            found = interleave(contenders, options.rounds)
        show(f"images/s, JPEG of {name}, to {options.size_px} px", found, "torchvision, threads")


if __name__ == "__main__":
    main()
