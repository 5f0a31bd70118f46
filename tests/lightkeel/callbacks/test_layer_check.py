from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightkeel.callbacks.layer_check import LayerCheck
from lightkeel.callbacks.nonfinite import Nonfinite
from src.models.supervised import SupervisedModule
from tests.lightkeel.callbacks.test_gradient_clipping import INPUTS, data, half_precision
from tests.lightkeel.fitting import fit


class Divide(nn.Module):
    """Divides by zero at a time of its own, forward or backward."""

    def __init__(self, at: int | None = None, backward_at: int | None = None) -> None:
        super().__init__()
        self.at, self.backward_at, self.calls = at, backward_at, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls - 1 == self.at:
            return inputs / 0.0
        if self.calls - 1 == self.backward_at:
            return inputs + torch.sqrt((0 * inputs).abs())  # finite; its derivative is not
        return inputs * 1


class Chain(SupervisedModule):
    """A linear layer, two that may divide by zero, and a ReLU in place."""

    def __init__(self, *layers: nn.Module, lr: float = 0.0) -> None:
        first = nn.Linear(2, 1)
        nn.init.ones_(first.weight)
        chain = nn.Sequential(first, *layers, nn.ReLU(inplace=True), nn.Flatten(0))
        super().__init__(chain, F.mse_loss, {}, optimizer={"name": "SGD", "lr": lr})


FIRST = "is the first whose output is not finite, at optimizer step"
GRADIENT = "is the first, counted from the loss, whose gradient is not finite, at optimizer step"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [Divide(), Divide(at=2)],
            f"layer `network.2` (Divide) {FIRST} 2.\nIts input and weights are finite.",
        ),
        (
            [Divide(at=1), Divide(at=1)],
            f"layer `network.1` (Divide) {FIRST} 1.\nIts input and weights are finite.",
        ),
        (
            [Divide(), Divide(backward_at=1)],
            f"layer `network.1` (Divide) {GRADIENT} 1.\nLook at what is done with its output.",
        ),
    ],
)
def test_first_layer_is_named(tmp_path: Path, layers: list[nn.Module], message: str) -> None:
    model = Chain(*layers)
    with pytest.raises(FloatingPointError) as caught:
        fit(tmp_path, model, data(), Nonfinite(), LayerCheck())
    assert str(caught.value) == message
    assert not any(layer._forward_hooks for layer in model.modules())


def test_input_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError) as caught:
        fit(tmp_path, Chain(), data(INPUTS / 0.0), LayerCheck())
    assert str(caught.value) == (
        f"layer `network.0` (Linear) {FIRST} 0.\nIts input is not finite: look at the data."
    )


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError) as caught:
        fit(tmp_path, Chain(lr=1e38), data(), LayerCheck(gradients=False))
    assert str(caught.value) == (
        f"layer `network.0` (Linear) {FIRST} 1.\nIts weights are not finite: lower the learning "
        "rate."
    )


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    """All layers are well; what comes back from the loss is not."""
    bad = data(bad=1, value=float("nan"))
    with pytest.raises(FloatingPointError) as caught:
        fit(tmp_path, Chain(), bad, LayerCheck())
    assert str(caught.value) == (
        f"layer `network.2` (Flatten) {GRADIENT} 1.\nLook at what is done with its output."
    )


@pytest.mark.parametrize("options", [{}, half_precision()])
def test_healthy_run_is_left_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    model = Chain(Divide(backward_at=1 if options else None))  # the scaler skips that step
    made = fit(tmp_path, model, data(), LayerCheck(), **options)
    assert made.global_step == 3
    assert not any(layer._forward_hooks for layer in model.modules())
