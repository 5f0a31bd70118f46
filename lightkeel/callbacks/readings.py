"""Rows of metrics: when one is written, what in it is a result, and what is not finite."""

from collections.abc import Sequence

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


def scaler_of(trainer: Trainer) -> torch.amp.GradScaler | None:
    """Return the scaler of 16-bit precision, which leaves out steps that are not finite."""
    return getattr(trainer.precision_plugin, "scaler", None)


def first_nonfinite(values: Sequence[Tensor]) -> tuple[int, float] | None:
    """Find place and value of the first that is NaN or infinite, on one device; sums of tensors."""
    together = torch.stack([value.sum() if value.ndim else value for value in values])
    wrong = torch.nonzero(~torch.isfinite(together))
    return (int(wrong[0]), float(together[wrong[0]])) if len(wrong) else None
