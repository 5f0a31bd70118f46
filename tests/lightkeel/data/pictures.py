"""Image files of one shade."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from src import data

needs_cifar10 = pytest.mark.skipif(
    not hasattr(data, "CIFAR10DataModule"), reason="this project has no CIFAR10DataModule"
)


def save_image(path: Path, shade: int, size: tuple[int, int] = (32, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)
    return path


def shades(images: Tensor) -> list[int]:
    """The shades of bytes (N, H, W, C), each image being of one shade."""
    assert torch.equal(images, images[:, :1, :1, :1].expand_as(images))
    found: list[int] = images[:, 0, 0, 0].tolist()
    return found
