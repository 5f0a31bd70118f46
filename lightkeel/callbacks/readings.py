"""Rows of metrics: when one is written, what in it is a result, and what is not finite."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

ON_THE_WAY = ("lr", "grad/", "grad_norm/", "momentum", "weight_decay", "memory_mib")


def is_row_due(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Tell whether Lightning writes a row of metrics after the optimizer step at hand.

    Values that are logged in those steps alone cost nothing in others. In manual optimization, where
    ``trainer.global_step`` counts the steps of all optimizers, any step may be one: always true.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    is_manual = not pl_module.automatic_optimization
    return bool(every) and (is_manual or (trainer.global_step + 1) % every == 0)


def current_step(trainer: Trainer) -> int:
    """Number of the step at hand, from 0, as Lightning's loggers count them.

    With one optimizer these are its steps. With several or none, or in manual optimization, where
    ``trainer.global_step`` counts the steps of each or stands still, they are batches.
    """
    # Not public, and what Lightning's own callbacks log by.
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def due(trainer: Trainer, step: int) -> bool:
    """Tell whether ``trainer.log_every_n_steps`` asks for a row after ``step`` steps."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and step % every == 0


def is_result(name: str) -> bool:
    """Tell whether a metric is a result, and not a reading on the way."""
    return not name.startswith(ON_THE_WAY)


def write(
    trainer: Trainer, step: int, values: Mapping[str, Tensor | float], done: bool = False
) -> None:
    """Write values to all loggers, and where callbacks look for them.

    For single values, with nothing to average over batches or devices: ``self.log``, which can,
    takes 0.4 milliseconds for each.

    Args:
        trainer: The trainer.
        step: The step that the values are of, as ``current_step`` counts.
        values: By name; tensors are (), all on one device, and read together.
        done: Whether nothing more comes for this row.
    """
    if not values:
        return
    on_device = [value for value in values.values() if isinstance(value, Tensor)]
    read = iter(torch.stack(on_device).tolist() if on_device else [])
    row = {name: next(read) if isinstance(v, Tensor) else v for name, v in values.items()}
    for name, value in values.items():
        dtype = value.dtype if isinstance(value, Tensor) else torch.float64
        # On the CPU, where whoever shows it does not wait for the device.
        known = torch.tensor(row[name], dtype=dtype)
        trainer.callback_metrics[name] = trainer.logged_metrics[name] = known
    row["epoch"] = trainer.current_epoch
    for logger in trainer.loggers:
        logger.log_metrics(row, step)
        if done:
            logger.save()


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
