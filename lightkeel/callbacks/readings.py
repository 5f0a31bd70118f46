"""Rows of metrics: when one is written, what in it is a result, and what is not finite."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

ON_THE_WAY = ("lr", "grad/", "grad_norm/", "momentum", "weight_decay", "memory_mib")


def is_row_due(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Tell whether Lightning writes a row of metrics after the optimizer step at hand.

    What is logged in those steps alone costs nothing in others. In manual optimization, where
    ``trainer.global_step`` counts the steps of all optimizers, any step may be one: always true.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    is_manual = not pl_module.automatic_optimization
    return bool(every) and (is_manual or (trainer.global_step + 1) % every == 0)


def is_result(name: str) -> bool:
    """Tell whether a metric is a result, and not a reading on the way."""
    return not name.startswith(ON_THE_WAY)


class Found(NamedTuple):
    """A value in a list: where it stands, and what it is."""

    place: int
    value: float


def first_nonfinite(values: Sequence[Tensor]) -> Found | None:
    """Find the first of some values, on one device, that is NaN or infinite.

    They are (); of others, such as a loss (1,), the sum is looked at.
    """
    together = torch.stack([value.sum() if value.ndim else value for value in values])
    wrong = torch.nonzero(~torch.isfinite(together))
    return Found(int(wrong[0]), float(together[wrong[0]])) if len(wrong) else None
