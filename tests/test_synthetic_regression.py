from typing import Any

import pytest
import torch
from torch import Tensor

from src.data import SyntheticRegressionDataModule

SPLITS = ("train", "val", "test")


def regression(**settings: Any) -> SyntheticRegressionDataModule:
    return SyntheticRegressionDataModule(**{"seed": 0, **settings})


def test_least_squares_finds_the_truth() -> None:
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


def test_without_noise_it_is_exact() -> None:
    x, y = regression(noise_std=0).load("train")
    torch.testing.assert_close(y, 2 * x[:, 0] - 3.4 * x[:, 1] + 4.2)


def test_splits_and_seeds_are_drawn_apart() -> None:
    def drawn() -> Tensor:
        pairs = [(seed, split) for seed in (0, 1) for split in SPLITS]
        return torch.cat([regression(seed=seed).load(split).inputs[:5] for seed, split in pairs])

    samples = drawn()
    assert len(torch.unique(samples, dim=0)) == len(samples) == 30
    assert torch.equal(drawn(), samples)


def test_seed_is_that_of_the_run_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    of_run = regression(seed=None).load("train").inputs
    assert torch.equal(of_run, regression(seed=3).load("train").inputs)
    assert not torch.equal(of_run, regression(seed=0).load("train").inputs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": ()}, "weights: empty. Give one for each feature."),
        ({"noise_std": -1}, "noise_std: -1 is not at least 0."),
        ({"num_samples": 1}, "num_samples: 1 is not at least 2."),
        ({"num_val_samples": 1}, "num_val_samples: 1 is not at least 2."),
        ({"num_test_samples": 1}, "num_test_samples: 1 is not at least 2."),
        ({"seed": -1}, "seed: -1 is not at least 0."),
    ],
)
def test_constructor_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        regression(**settings)
    assert str(error.value) == message
