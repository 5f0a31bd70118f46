"""Decoding of photographs to squares of bytes, beside torchvision's own reader.

    python -m benchmarks.decoding [--rounds 5] [--size-px 224]

Noise with the spectrum of photographs, as JPEG of quality 90. Ours decodes them into a new file and
maps it; torchvision's ``decode_image``, ``Resize`` and ``CenterCrop`` work in threads, and in the
workers of a ``DataLoader``, into memory. Each of its threads computes by itself: it is faster.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from benchmarks.report import interleave, show
from lightkeel.data.decoding import decode

# Width x height: files, and how often each is decoded in a round.
SOURCES = {
    "340 x 256": (80, 4),
    "500 x 375": (60, 4),
    "1500 x 1125": (24, 2),
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
        self.scale = v2.Compose([v2.Resize(size_px, antialias=True), v2.CenterCrop(size_px)])

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


def main() -> None:
    """Measure, and print a table for each size of the sources."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size-px", type=int, default=224)
    options = parser.parse_args()
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
