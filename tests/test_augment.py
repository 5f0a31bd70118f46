import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from src.data import augment

FUNCTIONS = [
    function
    for name, function in vars(augment).items()
    if inspect.isfunction(function) and not name.startswith("_")
]
NUMBERS = torch.arange(1, 10, dtype=torch.uint8).view(1, 3, 3, 1)  # rows 1 2 3, 4 5 6, 7 8 9


def grid(images: Tensor) -> list[list[int]]:
    found: list[list[int]] = images[0, :, :, 0].tolist()
    return found


def test_functions_are_discovered() -> None:
    assert {"random_crop", "horizontal_flip"} <= {function.__name__ for function in FUNCTIONS}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_augmentation(function: Callable[[Tensor, Tensor], Tensor], channels: int) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (16, 8, 5, channels), dtype=torch.uint8, generator=random)
    draws = torch.rand(16, 4, generator=random)
    given = images.clone(), draws.clone()
    whole = function(images, draws)
    assert torch.equal(images, given[0])
    assert torch.equal(draws, given[1])
    assert (whole.shape, whole.dtype) == (images.shape, torch.uint8)
    assert not torch.equal(whole, images)
    parts = [function(images[part], draws[part]) for part in (slice(1), slice(1, 6), slice(6, 16))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(function(images.flip(0), draws.flip(0)), whole.flip(0))
    assert function(images[:0], draws[:0]).shape == (0, 8, 5, channels)


@pytest.mark.parametrize(
    ("draw", "pad_px", "expected"),
    [
        ((0.5, 0.5), 1, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        ((0.0, 0.5), 1, [[4, 5, 6], [1, 2, 3], [4, 5, 6]]),
        ((0.99, 0.5), 1, [[4, 5, 6], [7, 8, 9], [4, 5, 6]]),
        ((0.5, 0.0), 1, [[2, 1, 2], [5, 4, 5], [8, 7, 8]]),
        ((0.0, 0.99), 1, [[5, 6, 5], [2, 3, 2], [5, 6, 5]]),
        ((0.0, 0.0), 2, [[9, 8, 7], [6, 5, 4], [3, 2, 1]]),
        ((0.0, 0.99), 0, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
    ],
)
def test_crop_by_hand(draw: tuple[float, float], pad_px: int, expected: list[list[int]]) -> None:
    draws = torch.tensor([[*draw, 0, 0]])
    assert grid(augment.random_crop(NUMBERS, draws, pad_px)) == expected


def test_crop_makes_all_shifts_equally_likely() -> None:
    draws = torch.full((10, 4), 0.5)
    draws[:, 1] = (torch.arange(10) + 0.5) / 10
    row = torch.arange(5, dtype=torch.uint8).view(1, 1, 5, 1).expand(10, 5, 5, 1)
    assert augment.random_crop(row, draws, 2)[:, 0, 2, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("draw", "probability", "flipped"),
    [(0.0, 0.0, False), (0.999, 1.0, True), (0.49, 0.5, True), (0.5, 0.5, False)],
)
def test_flip_by_hand(draw: float, probability: float, flipped: bool) -> None:
    expected = [[3, 2, 1], [6, 5, 4], [9, 8, 7]] if flipped else grid(NUMBERS)
    draws = torch.tensor([[draw, 0, 0, 0]])
    assert grid(augment.horizontal_flip(NUMBERS, draws, probability)) == expected


@pytest.mark.parametrize("pad_px", [-1, 3])
def test_crop_refuses(pad_px: int) -> None:
    with pytest.raises(ValueError, match=rf"^pad_px: {pad_px} is not in \[0, 3\)\.$"):
        augment.random_crop(NUMBERS, torch.zeros(1, 4), pad_px)


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_flip_refuses(probability: float) -> None:
    with pytest.raises(ValueError, match=rf"^probability: {probability} is not in \[0, 1\]\.$"):
        augment.horizontal_flip(NUMBERS, torch.zeros(1, 4), probability)
