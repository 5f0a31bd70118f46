from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision

from src.callbacks import GradientClipping
from tests.lightkeel.fitting import Given, Line, Rows, fit

# With weights of zero, x and y = -0.5 give the gradient -2 * y * x = x.
INPUTS = torch.tensor([[3.0, 4.0], [0.6, 0.8], [6.0, 8.0]])  # norms 5, 1, 10
HALF = -0.5


def data(inputs: torch.Tensor = INPUTS, bad: int | None = None, value: float = 0.0) -> Given:
    """Serve one input a batch; that of number ``bad`` has the target ``value``."""
    targets = torch.full((len(inputs),), HALF)
    if bad is not None:
        targets[bad] = value
    return Given(inputs, targets, batch_size=1)


def line(lr: float = 1.0, name: str = "SGD", **settings: Any) -> Line:
    return Line(num_features=2, bias=False, optimizer={"name": name, "lr": lr, **settings})


@pytest.mark.parametrize(
    ("settings", "options", "norms", "clipped"),
    [
        ({"max_norm": 2.5}, {}, {0: 5, 1: 1, 2: 10}, {0: 1, 1: 0, 2: 1}),
        ({"max_norm": 5}, {}, {0: 5, 1: 1, 2: 10}, {0: 0, 1: 0, 2: 1}),
        ({"max_value": 4.5}, {}, {0: 5, 1: 1, 2: 10}, {0: 0, 1: 0, 2: 1}),  # largest 4, 0.8, 8
        ({"max_norm": 2.5}, {"log_every_n_steps": 3}, {2: 10}, {2: 1}),
        (
            {"max_norm": 2.5},
            {"log_every_n_steps": 2, "max_epochs": 2},  # rows go on over the end of an epoch
            {1: 1, 3: 5, 5: 10},
            {1: 0, 3: 1, 5: 1},
        ),
        ({"max_norm": 2.5}, {"accumulate_grad_batches": 3}, {0: 16 / 3}, {0: 1}),
        ({"max_norm": 2.5}, {"log_every_n_steps": 0}, {}, {}),
    ],
)
def test_rows(
    tmp_path: Path,
    settings: dict[str, Any],
    options: dict[str, Any],
    norms: dict[int, float],
    clipped: dict[int, float],
) -> None:
    logger, clipping = Rows(), GradientClipping(**settings)
    fit(tmp_path, line(lr=0.0), data(), clipping, logger=logger, **options)
    assert logger.column("grad/norm") == pytest.approx(norms)
    assert logger.column("grad/clipped") == pytest.approx(clipped)


def test_accumulated_gradients_are_clipped_together(tmp_path: Path) -> None:
    model = line()
    fit(tmp_path, model, data(), GradientClipping(max_norm=2.5), accumulate_grad_batches=3)
    assert model.weights == pytest.approx([-1.5, -2.0], abs=1e-5)


def half_precision() -> dict[str, Any]:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return {"plugins": MixedPrecision("16-mixed", "cpu", scaler)}


def test_fused_optimizer_in_half_precision_is_refused(tmp_path: Path) -> None:
    """It would be given gradients that were clipped before they were unscaled."""
    model, clipping = line(name="AdamW", fused=True), GradientClipping(max_norm=2.5)
    with pytest.raises(ValueError, match=r"^with 16-bit precision a fused"):
        fit(tmp_path, model, data(), clipping, **half_precision())
    fit(tmp_path, line(name="AdamW", fused=True), data(), clipping)


def test_gradients_in_half_precision_are_unscaled_first(tmp_path: Path) -> None:
    model, logger = line(), Rows()
    clipping = GradientClipping(max_norm=2.5)
    fit(tmp_path, model, data(INPUTS[:1]), clipping, logger=logger, **half_precision())
    assert logger.column("grad/norm") == pytest.approx({0: 5.0})
    assert model.weights == pytest.approx([-1.5, -2.0], abs=1e-5)


def test_step_skipped_by_the_scaler_is_no_error(tmp_path: Path) -> None:
    model, logger = line(), Rows()
    clipping = GradientClipping(max_norm=2.5)
    bad = data(INPUTS[:2], bad=1, value=float("inf"))
    made = fit(tmp_path, model, bad, clipping, logger=logger, **half_precision())
    assert logger.column("grad/norm") == {0: pytest.approx(5.0), 1: inf}
    assert model.weights == pytest.approx([-1.5, -2.0], abs=1e-5)
    plugin: Any = made.precision_plugin
    assert plugin.scaler.get_scale() == 512.0


def test_step_that_another_callback_leaves_out(tmp_path: Path) -> None:
    class LeaveOut(Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            if trainer.global_step == 1:
                optimizer.zero_grad()

    for settings in ({"max_norm": 2.5}, {"max_value": 4.5}):
        logger, clipping = Rows(), GradientClipping(**settings)
        fit(tmp_path, line(lr=0.0), data(), LeaveOut(), clipping, logger=logger)
        norms = logger.column("grad/norm")
        assert norms == pytest.approx({0: 5, 1: nan, 2: 10}, nan_ok=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            "max_norm: null, as max_value is. Give one of them.",
        ),
        (
            {"max_norm": 1.0, "max_value": 2.0},
            "max_norm: 1.0, with max_value 2.0. Set one to null.",
        ),
        ({"max_norm": 0.0}, "max_norm: 0.0 is not positive."),
        ({"max_value": -1.0}, "max_value: -1.0 is not positive."),
        ({"max_norm": float("nan")}, "max_norm: nan is not positive."),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=":") as caught:
        GradientClipping(**settings)
    assert str(caught.value) == message
