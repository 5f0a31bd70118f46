"""Stop, or leave a step out, where numbers are no longer finite."""

from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ..models.fsdp import whole
from .readings import first_nonfinite, is_row_due, scaler_of

REMEDIES = (
    "Lower the learning rate, or set callbacks.nonfinite.action to `skip`. "
    "--config overlays/debug names the layer."
)
MOST_KEPT = 1000  # losses, where rows are rare and an epoch may have no end


class Nonfinite(Callback):
    """Watch for losses, weights and gradients that are NaN or infinite.

    Losses are read every ``trainer.log_every_n_steps`` steps, at the end of an epoch and before a
    checkpoint is written; then the weights are looked at too. Steps that the gradient scaler of
    16-bit precision skips while it finds its scale are no error.

    Logs: with ``action: skip``, grad/skipped, the steps skipped so far.

    Args:
        action: ``stop`` ends the run with an error that names the step; ``skip`` leaves out each
            step whose gradient is not finite, at the price of reading each norm.

    Raises:
        FloatingPointError: A loss was not finite, with ``action: stop``, or weights that were to be
            saved were not.
    """

    def __init__(self, action: Literal["stop", "skip"] = "stop") -> None:
        if action not in ("stop", "skip"):
            raise ValueError(f"action: {action!r} is neither `stop` nor `skip`.")
        self.action = action
        self.num_skipped = 0
        self._unread: list[tuple[int, Tensor]] = []  # optimizer step, its loss ()
        self._is_due, self._step = False, 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._is_due, self._step = is_row_due(trainer, pl_module), trainer.global_step

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        if not pl_module.automatic_optimization:
            every = trainer.log_every_n_steps  # type: ignore[attr-defined]
            self._note(trainer, trainer.global_step, loss, len(self._unread) + 1 == every)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        # Not before the backward pass, where a CUDA graph runs no Python.
        if pl_module.automatic_optimization and outputs:
            self._note(trainer, self._step, outputs["loss"], self._is_due)

    def _note(self, trainer: Trainer, step: int, loss: Tensor, is_due: bool) -> None:
        if self.action == "skip":
            return
        self._unread.append((step, loss.detach()))
        # In the steps whose row of metrics is read as well, so that no other one waits.
        if is_due or len(self._unread) >= MOST_KEPT:
            self._check_losses(trainer)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self.action == "stop" or scaler_of(trainer) is not None:
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = whole(get_total_norm([p.grad for p in parameters if p.grad is not None]))
        if not torch.isfinite(norm):
            self.num_skipped += 1
            optimizer.zero_grad(set_to_none=True)  # optimizers pass over parameters without one
        if is_row_due(trainer, pl_module):
            pl_module.log("grad/skipped", float(self.num_skipped), batch_size=1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_losses(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._check_losses(trainer)
        if name := nonfinite_weights(pl_module):
            raise FloatingPointError(
                f"the weights `{name}` are not finite after {trainer.global_step} optimizer "
                f"steps, so no checkpoint is written.\n{REMEDIES}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_skipped = state_dict["num_skipped"]

    def _check_losses(self, trainer: Trainer) -> None:
        unread, self._unread = self._unread, []
        if not unread or scaler_of(trainer) is not None:
            return
        found = first_nonfinite([loss for _, loss in unread])
        step = unread[found[0]][0] if found else float("inf")
        if trainer.world_size > 1:  # all stop, whoever found it
            mine = torch.tensor(float(step), device=trainer.strategy.root_device)
            step = float(trainer.strategy.reduce(mine, reduce_op="min"))
        if step != float("inf"):
            what = f"is {found[1]}" if found else "is not finite on another device"
            raise FloatingPointError(f"the loss of optimizer step {int(step)} {what}.\n{REMEDIES}")


def nonfinite_weights(model: nn.Module) -> str | None:
    """Name the first weights in training that are not finite, with one read of the device."""
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad and p.numel()}
    # Largest values, for a sum of squares may overflow where weights do not.
    norms = [torch.linalg.vector_norm(weights, torch.inf) for weights in trained.values()]
    found = first_nonfinite(whole(torch.stack(norms)).unbind()) if norms else None
    return list(trained)[found[0]] if found else None
