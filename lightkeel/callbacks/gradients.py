"""The size of gradients, and who leaves steps out for it."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm


def total_norm(gradients: list[Tensor], order: float = 2.0) -> Tensor:
    """Compute the norm of all gradients together, (), on the device of the first."""
    return whole(get_total_norm(gradients, order))


def whole(value: Any) -> Tensor:
    """Gather what is computed from sharded tensors: each rank has seen its own part."""
    gathered: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return gathered


def scaler_of(trainer: Trainer) -> torch.amp.GradScaler | None:
    """Return the scaler of 16-bit precision, which leaves out steps that are not finite."""
    return getattr(trainer.precision_plugin, "scaler", None)
