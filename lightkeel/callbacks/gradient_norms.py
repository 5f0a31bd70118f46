"""See in which layers gradients vanish or explode."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors.checks import at_least
from . import readings


class GradientNorms(Callback):
    """Log the size of each layer's gradient, every few steps.

    Gradients are accumulated, averaged over devices, unscaled from mixed precision and not yet
    clipped. A layer is a module with weights of its own; those without a gradient are left out. Of
    several optimizers each is asked for the layers that it trains. Of a layer whose gradient is
    computed several times in a step (LBFGS does so), the first is logged.

    Logs: grad_norm/LAYER, the 2-norm over the layer's weights and biases together.

    Args:
        every_n_steps: Optimizer steps from one row to the next.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        at_least(1, every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self._step = -1
        self._logged: set[str] = set()  # layers, of this step

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        step = readings.current_step(trainer)
        if (step + 1) % self.every_n_steps:
            return
        if step != self._step:
            self._step = step
            self._logged.clear()
        found = gradients_of(pl_module, optimizer)
        gradients = {name: part for name, part in found.items() if name not in self._logged}
        if gradients:  # else the step is left out
            self._logged |= gradients.keys()
            scale = unapplied_scale(trainer, optimizer)
            norms = layer_norms(gradients)
            values = {f"grad_norm/{name}": norm / scale for name, norm in norms.items()}
            # Here and not after the step, since a checkpoint of it holds the row whole.
            readings.write(trainer, step, values)


def gradients_of(model: nn.Module, optimizer: Optimizer) -> dict[str, list[Tensor]]:
    """List the gradients of each layer that an optimizer trains, a shared one once."""
    left = {id(p) for group in optimizer.param_groups for p in group["params"]}
    found: dict[str, list[Tensor]] = {}
    for name, layer in model.named_modules():
        for parameter in layer.parameters(recurse=False):
            if parameter.grad is not None and id(parameter) in left:
                left.remove(id(parameter))
                found.setdefault(name or "model", []).append(parameter.grad)
    return found


@torch.no_grad()
def layer_norms(gradients: dict[str, list[Tensor]]) -> dict[str, float]:
    """Compute the 2-norm of each layer's gradients together, with one read of the device."""
    flat = [gradient for part in gradients.values() for gradient in part]
    together: Any = torch.stack(torch._foreach_norm(flat))
    # Of sharded gradients, each device has seen its own part.
    whole: Tensor = together.full_tensor() if hasattr(together, "full_tensor") else together
    norms = iter(whole.tolist())
    return {name: math.hypot(*(next(norms) for _ in part)) for name, part in gradients.items()}


def unapplied_scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """Tell by what gradients are still multiplied: fused optimizers unscale them in their step."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return float(scaler.get_scale()) if scaler is not None and fused else 1.0
