from pathlib import Path
from typing import Any

import pytest
import torch

from src.callbacks import GradientClipping
from tests.line import trained

# With w = 0 and y = -0.5 the gradient of (w x - y)^2, which is -2 y x, is x itself: norm 5.
X, Y = torch.tensor([[3.0, 4.0]]), torch.tensor([-0.5])


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"max_norm": 2.5}, [-1.5, -2.0]),
        ({"max_norm": 5.0}, [-3.0, -4.0]),
        ({"max_norm": 50.0}, [-3.0, -4.0]),
        ({"max_value": 3.5}, [-3.0, -3.5]),
        ({"max_value": 0.5}, [-0.5, -0.5]),
    ],
)
def test_step_is_that_of_the_clipped_gradient(
    tmp_path: Path, settings: dict[str, Any], weights: list[float]
) -> None:
    found = trained(tmp_path, X, Y, GradientClipping(**settings))
    assert found == pytest.approx(weights, abs=1e-5)


def test_accumulated_gradients_are_clipped_together(tmp_path: Path) -> None:
    x, y = torch.cat([X, 3 * X]), torch.cat([Y, Y])  # gradients of norm 5 and 15: together 10
    options = {"accumulate_grad_batches": 2}
    found = trained(tmp_path, x, y, GradientClipping(max_norm=2.5), **options)
    assert found == pytest.approx([-1.5, -2.0], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "max_norm: null, as max_value is. Give one of them."),
        ({"max_norm": 0.0}, "max_norm: 0.0 is not positive."),
        (
            {"max_norm": 1.0, "max_value": 2.0},
            "max_norm: 1.0, with max_value 2.0. Set one to null.",
        ),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=":") as caught:
        GradientClipping(**settings)
    assert str(caught.value) == message
