"""Limit gradients before each optimizer step, and watch their size."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from lightkeel import is_row_due, whole


class GradientClipping(Callback):
    """Clip gradients by total norm or by value, once per optimizer step.

    Acts on gradients that are accumulated, averaged over devices and unscaled from mixed precision.
    What to do about a norm that is not finite is asked of ``callbacks.nonfinite``.

    Logs: grad/norm, the 2-norm of all gradients before clipping; grad/clipped, 1 where the step was
    clipped, else 0. With several optimizers, names end in their number, and each clips the
    gradients of its own parameters.

    Args:
        max_norm: Scale all gradients so that their joint 2-norm is at most this.
        max_value: Limit each element to [-max_value, max_value] instead.
    """

    def __init__(self, max_norm: float | None = None, max_value: float | None = None) -> None:
        if max_norm is None and max_value is None:
            raise ValueError("max_norm: null, as max_value is. Give one of them.")
        if max_norm is not None and max_value is not None:
            raise ValueError(f"max_norm: {max_norm}, with max_value {max_value}. Set one to null.")
        for name, limit in {"max_norm": max_norm, "max_value": max_value}.items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}: {limit} is not positive.")
        self.max_norm, self.max_value = max_norm, max_value

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_fused = any(optimizer.defaults.get("fused") for optimizer in trainer.optimizers)
        precision = trainer.precision_plugin
        if is_fused and isinstance(precision, MixedPrecision) and precision.scaler:
            raise ValueError(
                "with 16-bit precision a fused optimizer unscales gradients when they are clipped "
                "already. Set model.optimizer.fused to false, or trainer.precision to bf16-mixed."
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        limit = self.max_norm or self.max_value or torch.inf
        norm = size = get_total_norm(gradients) if gradients else torch.tensor(torch.nan)
        if gradients and self.max_norm is not None:
            clip_grads_with_norm_(parameters, limit, norm)
        elif gradients:
            size = get_total_norm(gradients, torch.inf)
            clip_grad_value_(parameters, limit)
        if is_row_due(trainer, pl_module):
            several = len(trainer.optimizers) > 1
            number = f"/{trainer.optimizers.index(optimizer)}" if several else ""
            pl_module.log(f"grad/norm{number}", whole(norm), batch_size=1)
            is_clipped = (whole(size) > limit).float()
            pl_module.log(f"grad/clipped{number}", is_clipped, batch_size=1)
