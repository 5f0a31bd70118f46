"""What each option of a loader does, on images that are decoded and cropped one by one.

    python -m benchmarks.dataloader [--rounds 5]

Settings alternate within each round; printed are medians over the rounds, with least and most.
"""

import argparse
import io
import statistics
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lightkeel import DatasetDataModule

NUM_IMAGES, SIZE_PX = 1024, 128
V2: Any = v2  # whose names are not declared
BOTH: dict[str, Any] = {"num_workers": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "num_workers 0": {},
    "num_workers 1": {"num_workers": 1},
    "num_workers 2": BOTH,
    "num_workers 2, prefetch_factor 1": {**BOTH, "prefetch_factor": 1},
    "num_workers 2, prefetch_factor 8": {**BOTH, "prefetch_factor": 8},
    "num_workers 2, persistent_workers": {**BOTH, "persistent_workers": True},
    "num_workers 2, pin_memory": {**BOTH, "pin_memory": True},
    "num_workers 2, in_order false": {**BOTH, "in_order": False},
    "num_workers 2, forkserver": {**BOTH, "multiprocessing_context": "forkserver"},
    "num_workers 2, spawn": {**BOTH, "multiprocessing_context": "spawn"},
    "batch_size 8": {"batch_size": 8},
    "batch_size 256": {"batch_size": 256},
    "shuffle false": {"shuffle": False},
    "seed_samples false": {"seed_samples": False},
}


class Photos(Dataset[Any]):
    """JPEG files in memory, of which a part is taken and scaled."""

    def __init__(self) -> None:
        pixels = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((SIZE_PX, SIZE_PX)).save(file, "jpeg")
        self.file, self.crop = file.getvalue(), V2.RandomResizedCrop(SIZE_PX // 2)

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.crop(V2.functional.pil_to_tensor(Image.open(io.BytesIO(self.file))))
        return image, index % 10


class Points(Dataset[Any]):
    """Samples that cost next to nothing."""

    def __len__(self) -> int:
        return 20 * NUM_IMAGES

    def __getitem__(self, index: int) -> float:
        return 0.5


def loader_of(dataset: Any, **options: Any) -> Any:
    """Make the training loader of a datamodule."""
    data = DatasetDataModule(dataset, val_fraction=None, test_fraction=None, seed=0, **options)
    data.setup("fit")
    return data.train_dataloader()


def timed(loader: Any) -> tuple[float, float]:
    """Take the seconds to the first batch, and to the last."""
    begin = time.perf_counter()
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - begin
    for _ in batches:
        pass
    return first, time.perf_counter() - begin


def measure(rounds: int, loaders: dict[Any, Any]) -> dict[Any, list[tuple[float, float]]]:
    """Time passes after the first of each loader, in turns."""
    for loader in loaders.values():
        timed(loader)
    found: dict[Any, list[tuple[float, float]]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, loader in loaders.items():
            found[name].append(timed(loader))
    return found


def spread(values: list[float], digits: int = 0) -> str:
    """Write a median with the least and the most."""
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def main() -> None:
    """Print what each setting comes to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    photos = {name: loader_of(Photos(), **options) for name, options in SETTINGS.items()}
    for name, times in measure(rounds, photos).items():
        rates = spread([NUM_IMAGES / last for _, last in times])
        print(f"{name:36} {rates:24} images/s, first batch {spread([f for f, _ in times], 3)} s")
    passes = measure(rounds, {way: loader_of(Points(), seed_samples=way) for way in (True, False)})
    pairs = zip(passes[True], passes[False], strict=True)
    cost = [1e6 * (with_ - without) / len(Points()) for (_, with_), (_, without) in pairs]
    print(f"seeding a sample: {spread(cost, 1)} microseconds")


if __name__ == "__main__":
    main()
