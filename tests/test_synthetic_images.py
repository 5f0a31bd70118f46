from typing import Any

import pytest
import torch
from torch import Tensor

from src.data import SyntheticImageDataModule

SPLITS = ("train", "val", "test")


def images(**settings: Any) -> SyntheticImageDataModule:
    sizes = {"num_samples": 40, "num_val_samples": 12, "num_test_samples": 11, "num_classes": 4}
    return SyntheticImageDataModule(**{**sizes, "image_size_px": 8, "seed": 0, **settings})


def test_images_have_shapes_and_equally_frequent_classes() -> None:
    data = images()
    for split, counts in {"train": [10] * 4, "val": [3] * 4, "test": [3, 3, 3, 2]}.items():
        pixels, labels = data.load(split)
        assert (pixels.shape, pixels.dtype) == ((sum(counts), 8, 8, 3), torch.uint8)
        assert torch.bincount(labels).tolist() == counts
    assert data.num_classes == 4


def test_images_are_learnable() -> None:
    """The nearest class mean tells unseen images apart: without noise all, by chance a quarter."""
    data = images(noise_std=0.5, num_samples=400, num_test_samples=100)
    pixels, labels = data.load("train")
    means = torch.stack([pixels[labels == k].float().mean(0) for k in range(4)])
    unseen, truth = data.load("test")
    distances = torch.cdist(unseen.float().flatten(1), means.flatten(1))
    assert (distances.argmin(1) == truth).float().mean() > 0.9


def test_noise_has_its_standard_deviation() -> None:
    """In units of a pattern's contrast, which is a tenth of the range of 255."""
    quiet, noisy = (images(noise_std=std, image_size_px=32).load("train") for std in (0, 1))
    difference = noisy.inputs[0].float() - quiet.inputs[0].float()
    assert abs(difference.std() - 25.5) < 1


def test_splits_and_seeds_are_drawn_apart() -> None:
    def drawn() -> Tensor:
        pairs = [(seed, split) for seed in (0, 1) for split in SPLITS]
        loaded = [images(seed=seed).load(split).inputs[:5] for seed, split in pairs]
        return torch.cat(loaded).flatten(1)

    samples = drawn()
    assert len(torch.unique(samples, dim=0)) == len(samples) == 30
    assert torch.equal(drawn(), samples)


def test_seed_is_that_of_the_run_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    of_run = images(seed=None).load("train").inputs
    assert torch.equal(of_run, images(seed=3).load("train").inputs)
    assert not torch.equal(of_run, images(seed=0).load("train").inputs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_std": -1}, "noise_std: -1 is not at least 0."),
        ({"num_samples": 3}, "num_samples: 3 is fewer than num_classes."),
        ({"num_val_samples": 3}, "num_val_samples: 3 is fewer than num_classes."),
        ({"num_test_samples": 3}, "num_test_samples: 3 is fewer than num_classes."),
        ({"num_classes": 1}, "num_classes: 1 is not at least 2."),
        ({"image_size_px": 0}, "image_size_px: 0 is not at least 1."),
    ],
)
def test_constructor_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        images(**settings)
    assert str(error.value) == message
