"""See in which layers gradients vanish or explode."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ..errors.checks import at_least
from ..models.fsdp import whole
from .readings import is_row_due, scaler_of


class GradientNorms(Callback):
    """Log the size of each layer's gradient, every few steps.

    Gradients are accumulated, averaged over devices, unscaled from mixed precision and not yet
    clipped. A layer is a module with weights of its own; those without a gradient are left out. Of
    several optimizers each is asked for the layers that it trains. Of a layer whose gradient is
    computed several times in a step (LBFGS does so), the last is logged.

    Logs: grad_norm/LAYER, the 2-norm over the layer's weights and biases together.

    Args:
        every_n_steps: Optimizer steps from one measurement to the next, which is of a step that
            ``trainer.log_every_n_steps`` asks for; rows between repeat the last.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        at_least(1, every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if not is_row_due(trainer, pl_module):
            return
        # The first row after each multiple; in manual optimization, a step of each optimizer.
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        span = every if pl_module.automatic_optimization else len(trainer.optimizers)
        if (trainer.global_step + 1) % self.every_n_steps >= span:
            return
        # Fused optimizers unscale gradients in their step.
        scaler = scaler_of(trainer) if optimizer.defaults.get("fused") else None
        scale = scaler.get_scale() if scaler is not None else 1.0
        left = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, layer in pl_module.named_modules():
            parameters = [p for p in layer.parameters(recurse=False) if id(p) in left]
            left -= set(map(id, parameters))  # a shared one counts once
            if gradients := [p.grad for p in parameters if p.grad is not None]:
                norm = whole(get_total_norm(gradients))
                pl_module.log(f"grad_norm/{name or 'model'}", norm / scale, batch_size=1)
