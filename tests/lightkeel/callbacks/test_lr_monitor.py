from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from src.callbacks import LRMonitor
from src.callbacks.lr_monitor import read_groups
from tests.lightkeel.fitting import Given, Line, Rows, fit

SGD = {"name": "SGD", "lr": 1.0, "momentum": 0.9, "weight_decay": 0.25}
ADAM = {"name": "AdamW", "lr": 0.5, "betas": (0.8, 0.99), "weight_decay": 0.125}
HALVED = {"name": "StepLR", "step_size": 1, "gamma": 0.5, "interval": "step"}


@pytest.mark.parametrize(
    ("optimizer", "options", "expected"),
    [
        # The rate that the step of the row uses, not that of the next.
        (
            SGD,
            {},
            {
                "lr": {0: 1, 1: 0.5, 2: 0.25, 3: 0.125},
                "momentum": dict.fromkeys(range(4), 0.9),
                "weight_decay": dict.fromkeys(range(4), 0.25),
            },
        ),
        (SGD, {"log_every_n_steps": 2}, {"lr": {1: 0.5, 3: 0.125}}),
        (SGD, {"log_every_n_steps": 3, "max_epochs": 2}, {"lr": {2: 0.25, 5: 0.03125}}),
        (SGD, {"log_every_n_steps": 0}, {"lr": {}}),
        (SGD, {"accumulate_grad_batches": 3}, {"lr": {0: 1, 1: 0.5}}),
        (ADAM, {"log_every_n_steps": 4}, {"momentum": {3: 0.8}, "weight_decay": {3: 0.125}}),
        (
            {**SGD, "lr_multipliers": {"*.bias": 0.5}},
            {"log_every_n_steps": 2},
            {
                "lr": {},
                "lr/decay": {1: 0.5, 3: 0.125},
                "lr/*.bias/no_decay": {1: 0.25, 3: 0.0625},
            },
        ),
    ],
)
def test_rows(
    tmp_path: Path,
    optimizer: dict[str, Any],
    options: dict[str, Any],
    expected: dict[str, dict[int, float]],
) -> None:
    logger, model = Rows(), Line(optimizer=optimizer, lr_scheduler=HALVED)
    data = Given(torch.zeros(4, 1), torch.zeros(4), batch_size=1)
    fit(tmp_path, model, data, LRMonitor(), logger=logger, **options)
    for name, column in expected.items():
        assert logger.column(name) == pytest.approx(column)


class Two(LightningModule):
    """Somebody else's model, with two optimizers."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.trainer.optimizers:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.SGD([self.layer.weight], lr=0.1),
            torch.optim.RMSprop([self.layer.bias], lr=0.2),
        ]


def test_several_optimizers_are_numbered(tmp_path: Path) -> None:
    logger = Rows()
    fit(tmp_path, Two(), Given(torch.zeros(1, 1), torch.zeros(1)), LRMonitor(), logger=logger)
    ((_, row),) = logger.rows
    assert row == pytest.approx(
        {
            "lr/0": 0.1,
            "momentum/0": 0.0,
            "weight_decay/0": 0.0,
            "lr/1": 0.2,
            "momentum/1": 0.0,
            "weight_decay/1": 0.0,
            "epoch": 0,
        }
    )


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([{"lr": 0.1}], {"lr": 0.1}),
        ([{"lr": 0.1}, {"lr": 0.2, "name": "head"}], {"lr/0": 0.1, "lr/head": 0.2}),
        (
            [{"lr": 1, "weight_decay": 0.0}, {"lr": 1, "weight_decay": 0.5}],
            {"lr": 1.0, "weight_decay": 0.5},
        ),
        ([], {}),
        ([{"scale": 0.1}], {}),
        ([{"scale": 0.1}, {"lr": 0.2, "weight_decay": 0.5}], {"lr": 0.2, "weight_decay": 0.5}),
    ],
)
def test_groups(groups: list[dict[str, Any]], expected: dict[str, float]) -> None:
    assert read_groups(groups) == expected


def test_each_of_several_is_in_every_row_that_is_due(tmp_path: Path) -> None:
    """Their steps together are twice the batches, and even: no row would be due."""
    logger, data = Rows(), Given(torch.zeros(4, 1), torch.zeros(4), batch_size=1)
    fit(tmp_path, Two(), data, LRMonitor(), logger=logger, log_every_n_steps=2)
    assert logger.column("lr/0") == {1: 0.1, 3: 0.1}
    assert logger.column("lr/1") == {1: 0.2, 3: 0.2}


class Without(Two):
    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore:.*this fit will run with no optimizer")
def test_no_optimizer_has_no_row(tmp_path: Path) -> None:
    logger = Rows()
    fit(tmp_path, Without(), Given(torch.zeros(1, 1), torch.zeros(1)), LRMonitor(), logger=logger)
    assert logger.rows == []
