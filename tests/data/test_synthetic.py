from typing import Any

import pytest
import torch
from torch import Tensor

from src.data import SyntheticImageDataModule, SyntheticRegressionDataModule
from src.data.in_memory import InMemoryDataModule
from tests.data.tiny import SPLITS, serve


def images(**settings: Any) -> SyntheticImageDataModule:
    sizes = {"num_samples": 40, "num_val_samples": 12, "num_test_samples": 11, "num_classes": 4}
    return SyntheticImageDataModule(**{**sizes, "image_size_px": 8, "seed": 0, **settings})


def regression(**settings: Any) -> SyntheticRegressionDataModule:
    return SyntheticRegressionDataModule(**{"seed": 0, **settings})


def test_regression_by_least_squares() -> None:
    """The estimate of a weight is off by noise_std / sqrt(n); 5 of that are allowed."""
    data = regression(weights=(2.0, -3.4, 0.5), bias=4.2, noise_std=0.1, num_samples=2500)
    for split, n in {"train": 2500, "val": 200, "test": 200}.items():
        x, y = data.load(split)
        assert (x.shape, y.shape, x.dtype, y.dtype) == ((n, 3), (n,), torch.float32, torch.float32)
        assert x.mean(0).abs().max() < 5 / n**0.5
        assert (x.std(0) - 1).abs().max() < 5 / (2 * n) ** 0.5
        design = torch.cat([x, torch.ones(n, 1)], 1)
        found = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
        truth = torch.tensor([2.0, -3.4, 0.5, 4.2])
        torch.testing.assert_close(found, truth, rtol=0, atol=5 * 0.1 / n**0.5)
        residual_std = (y - design @ found).square().sum().div(n - 4).sqrt()
        assert abs(residual_std - 0.1) < 5 * 0.1 / (2 * n) ** 0.5
    assert data.num_features == 3
    assert (data.true_weights.tolist(), data.true_bias) == (truth[:3].tolist(), truth[3])


def test_regression_without_noise_is_exact() -> None:
    x, y = regression(noise_std=0).load("train")
    torch.testing.assert_close(y, 2 * x[:, 0] - 3.4 * x[:, 1] + 4.2)


def test_images_have_shapes_and_equally_frequent_classes() -> None:
    data = images()
    for split, counts in {"train": [10] * 4, "val": [3] * 4, "test": [3, 3, 3, 2]}.items():
        pixels, labels = data.load(split)
        assert (pixels.shape, pixels.dtype) == ((sum(counts), 8, 8, 3), torch.uint8)
        assert torch.bincount(labels).tolist() == counts
    (batch, labels), *_ = serve(data, "val")
    assert (batch.shape, batch.dtype, labels.dtype) == ((12, 3, 8, 8), torch.float32, torch.int64)
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


@pytest.mark.parametrize("make", [images, regression])
def test_splits_and_seeds_are_drawn_apart(make: Any) -> None:
    def drawn(data: InMemoryDataModule, split: str) -> Tensor:
        return data.load(split).inputs[:5].flatten(1).float()

    sets = [drawn(make(seed=seed), split) for seed in (0, 1) for split in SPLITS]
    samples = torch.cat(sets)
    assert len(torch.unique(samples, dim=0)) == len(samples) == 30
    again = [drawn(make(seed=seed), split) for seed in (0, 1) for split in SPLITS]
    assert torch.equal(torch.cat(again), samples)


@pytest.mark.parametrize("make", [images, regression])
def test_seed_is_that_of_the_run_unless_given(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    of_run = make(seed=None).load("train").inputs
    assert torch.equal(of_run, make(seed=3).load("train").inputs)
    assert not torch.equal(of_run, make(seed=0).load("train").inputs)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (regression, {"weights": ()}, "weights: empty. Give one for each feature."),
        (regression, {"noise_std": -1}, "noise_std: -1 is negative."),
        (regression, {"num_samples": 1}, "num_samples: 1 is not at least 2."),
        (regression, {"num_val_samples": 1}, "num_val_samples: 1 is not at least 2."),
        (regression, {"num_test_samples": 1}, "num_test_samples: 1 is not at least 2."),
        (regression, {"seed": -1}, "seed: -1 is negative."),
        (images, {"noise_std": -1}, "noise_std: -1 is negative."),
        (images, {"num_samples": 3}, "num_samples: 3 is fewer than num_classes."),
        (images, {"num_val_samples": 3}, "num_val_samples: 3 is fewer than num_classes."),
        (images, {"num_test_samples": 3}, "num_test_samples: 3 is fewer than num_classes."),
        (images, {"num_classes": 1}, "num_classes: 1 is not at least 2."),
        (images, {"image_size_px": 0}, "image_size_px: 0 is not at least 1."),
    ],
)
def test_constructor_refuses(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make(**settings)
    assert str(error.value) == message
