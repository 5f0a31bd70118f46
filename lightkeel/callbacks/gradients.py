"""The size of gradients, and who leaves steps out for it."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm

from ..models.fsdp import whole


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Compute the norm of all gradients together, (), on the device of the first."""
    return whole(get_total_norm(gradients))


def scaler_of(trainer: Trainer) -> torch.amp.GradScaler | None:
    """Return the scaler of 16-bit precision, which leaves out steps that are not finite."""
    return getattr(trainer.precision_plugin, "scaler", None)
