"""Average weights over the steps of a run, and go on from the average."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ..checks import at_least


class Lookahead(Callback):
    """Every few steps move slow weights towards the weights, and set the weights to them.

    Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back" (2019), with the slow weights
    following more and more slowly, as by Jordan 2024 (arXiv 2404.00498): of the slow weights
    ``decay * t**3`` is kept at share t of the run. The run ends with the slow weights.

    Args:
        every_n_steps: Optimizer steps from one average to the next; in manual optimization,
            batches.
        decay: Share of the slow weights that is kept at the end of the run, in [0, 1].
    """

    def __init__(self, every_n_steps: int = 5, decay: float = 0.774) -> None:
        at_least(1, every_n_steps=every_n_steps)
        if not 0 <= decay <= 1:
            raise ValueError(f"decay: {decay} is not in [0, 1].")
        self.every_n_steps = every_n_steps
        self.decay = decay
        self._slow: list[Tensor] = []
        self._num_steps = 0
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        if not 0 < steps < float("inf"):
            raise ValueError(
                "decay: follows the length of the run. Set trainer.max_epochs (trainer.max_steps "
                "for a stream)."
            )
        self._num_steps = int(steps)
        self._last_step = num_steps_done(trainer, pl_module)
        current = averaged(pl_module)
        if any(hasattr(tensor, "full_tensor") for tensor in current):
            raise ValueError("averages whole weights. Set trainer.strategy to ddp, not fsdp.")
        if not self._slow:
            self._slow = [tensor.detach().clone() for tensor in current]
        self._slow = [slow.to(now.device) for slow, now in zip(self._slow, current, strict=True)]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = num_steps_done(trainer, pl_module)
        if step == self._last_step:  # within an accumulated step
            return
        self._last_step = step
        if step >= self._num_steps:
            self._average(pl_module, keep=1.0)
        elif step % self.every_n_steps == 0:
            self._average(pl_module, keep=self.decay * (step / self._num_steps) ** 3)

    def state_dict(self) -> dict[str, Any]:
        return {"slow": [tensor.cpu() for tensor in self._slow]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._slow = state_dict["slow"]

    @torch.no_grad()
    def _average(self, pl_module: LightningModule, keep: float) -> None:
        current = averaged(pl_module)
        torch._foreach_lerp_(self._slow, current, 1 - keep)
        torch._foreach_copy_(current, self._slow)


def num_steps_done(trainer: Trainer, pl_module: LightningModule) -> int:
    """Count steps as ``trainer.estimated_stepping_batches`` does: in manual optimization, batches.

    There, ``trainer.global_step`` counts those of each optimizer.
    """
    if pl_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.total_batch_idx + 1


def averaged(pl_module: LightningModule) -> list[Tensor]:
    """List what is averaged: all floating tensors of the network's state, statistics too."""
    network = getattr(pl_module, "network", pl_module)
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
