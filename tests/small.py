"""Data as configs name it, small enough for a test."""

import inspect
from pathlib import Path
from typing import Any

from src.data.in_memory import InMemoryDataModule

COUNTS = {"num_samples": 64, "num_val_samples": 16, "num_test_samples": 16, "val_fraction": 0.2}


def small(cls: type, folder: Path, num_classes: int) -> dict[str, Any]:
    """Choose values for those options that a datamodule has; make the images it would read."""
    accepted = inspect.signature(cls).parameters
    chosen: dict[str, Any] = {**COUNTS, "data_dir": str(folder), "roots": [str(folder)]}
    chosen = {name: value for name, value in chosen.items() if name in accepted}
    if issubclass(cls, InMemoryDataModule):
        chosen |= {"batch_size": 16, "val_batch_size": 16}
    if {"data_dir", "roots"} & chosen.keys():
        make_images(folder, num_classes)
    return chosen


def make_images(folder: Path, num_classes: int) -> None:
    """Write images of one shade a class, 32 x 32 pixels, ten to train on and two to test."""
    for split, count in {"train": 10, "test": 2}.items():
        for number in range(num_classes):
            place = folder / split / f"class{number}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                shade = bytes([255 * number // num_classes, 0, 0])
                (place / f"{i}.ppm").write_bytes(b"P6 32 32 255\n" + shade * 32**2)
