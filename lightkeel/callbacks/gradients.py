"""The size of gradients, and who leaves steps out for it."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm


def total_norm(gradients: list[Tensor], order: float = 2.0) -> Tensor:
    """Compute the norm of all gradients together, (), on the device of the first."""
    if len({gradient.device for gradient in gradients}) != 1:
        return get_total_norm(gradients, order)
    # What that one does in the end, after 30 microseconds of sorting.
    norms = torch.stack(torch._foreach_norm(gradients, order))
    total: Any = torch.linalg.vector_norm(norms, order)
    # Of sharded gradients, each device has seen its own part.
    whole: Tensor = total.full_tensor() if hasattr(total, "full_tensor") else total
    return whole


def scaler_skips(trainer: Trainer) -> bool:
    """Tell whether a gradient scaler, that of 16-bit precision, leaves out non-finite steps."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None
