"""Limit gradients before each optimizer step, and watch their size."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.nn.utils import clip_grad_value_
from torch.optim import Optimizer

from lightkeel.callbacks import readings
from lightkeel.callbacks.gradients import scaler_skips, total_norm


class GradientClipping(Callback):
    """Clip gradients by total norm or by value, once per optimizer step.

    Acts on gradients that are accumulated, averaged over devices and unscaled from mixed precision.
    Norms stay on the device and are read every ``trainer.log_every_n_steps``. With 16-bit precision
    the gradient scaler itself skips non-finite steps while it finds its scale: those are no error.

    Logs: grad/norm, the mean norm before clipping since the row before; grad/clipped, the share of
    steps clipped (0 to 1), both over finite norms (NaN where there is none). With several
    optimizers, names end in their number, and each clips the gradients of its own parameters.

    Args:
        max_norm: Scale all gradients so that their joint 2-norm is at most this.
        max_value: Limit each element to [-max_value, max_value] instead.

    Raises:
        FloatingPointError: A norm was not finite, found when norms are next read and before a
            checkpoint is written. ``Nonfinite`` can leave such steps out.
    """

    def __init__(self, max_norm: float | None = None, max_value: float | None = None) -> None:
        if max_norm is None and max_value is None:
            raise ValueError("max_norm: null, as max_value is. Give one of them.")
        if max_norm is not None and max_value is not None:
            raise ValueError(
                f"max_norm: {max_norm}, with max_value {max_value}. Set one of them to null."
            )
        for name, limit in {"max_norm": max_norm, "max_value": max_value}.items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}: {limit} is not positive.")
        self.max_norm = max_norm
        self.max_value = max_value
        self._norms: list[Tensor] = []  # (): 2-norm before clipping, one a step since the last row
        self._sizes: list[Tensor] = []  # (): what the limit is compared with
        self._origins: list[tuple[int, int]] = []  # of which step, of which optimizer
        self._last_rows: dict[int, int] = {}  # by optimizer: the step that it last had a row of

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.strategy, FSDPStrategy):
            raise ValueError(
                "each device would see the norm of its own part with PyTorch's first FSDP. "
                "Set trainer.strategy to fsdp, which is the second."
            )
        fused = any(getattr(o, "_step_supports_amp_scaling", False) for o in trainer.optimizers)
        if fused and scaler_skips(trainer):
            raise ValueError(
                "with 16-bit precision a fused optimizer unscales gradients when they are clipped "
                "already. Set model.optimizer.fused to false, or trainer.precision to bf16-mixed."
            )
        for kept in (self._norms, self._sizes):  # of a run that is resumed
            kept[:] = [value.to(pl_module.device) for value in kept]

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        number = next(n for n, other in enumerate(trainer.optimizers) if other is optimizer)
        if gradients:  # else the step is left out
            self._origins.append((trainer.global_step, number))
            self._clip(parameters, gradients)
        # Here and not after the step, since a checkpoint of it holds the row whole.
        step = readings.current_step(trainer)
        if readings.due(trainer, step + 1) and self._last_rows.get(number) != step:
            self._last_rows[number] = step
            suffix = f"/{number}" if len(trainer.optimizers) > 1 else ""
            read = self._read(trainer, number)
            readings.write(trainer, step, {name + suffix: value for name, value in read.items()})

    def _clip(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        norm = size = total_norm(gradients)
        if self.max_value is not None:
            size = total_norm(gradients, float("inf"))
        self._norms.append(norm)
        self._sizes.append(size)
        if self.max_norm is not None:
            # As by `clip_grads_with_norm_`, which sorts the gradients by device first.
            torch._foreach_mul_(gradients, (self.max_norm / (norm + 1e-6)).clamp(max=1.0))
        else:
            assert self.max_value is not None
            clip_grad_value_(parameters, self.max_value)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer)
        if not trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._forget(range(len(self._norms)))  # nobody will read them

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer)

    def state_dict(self) -> dict[str, Any]:
        kept = [*self._norms, *self._sizes]
        read = torch.stack(kept).cpu() if kept else torch.zeros(0)  # at once
        number = len(self._norms)
        return {"origins": list(self._origins), "norms": read[:number], "sizes": read[number:]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._origins = list(state_dict["origins"])
        self._norms, self._sizes = list(state_dict["norms"]), list(state_dict["sizes"])

    def _read(self, trainer: Trainer, number: int) -> dict[str, Tensor | float]:
        self._check(trainer)
        places = [place for place, (_, owner) in enumerate(self._origins) if owner == number]
        if not places:  # each step since the last row was left out
            return {"grad/norm": float("nan"), "grad/clipped": float("nan")}
        norms, sizes = (
            torch.stack([kept[place] for place in places]) for kept in (self._norms, self._sizes)
        )
        finite = torch.isfinite(norms)
        self._forget(places)
        limit = self.max_norm if self.max_norm is not None else self.max_value
        assert limit is not None
        clipped = (sizes[finite] > limit).float().mean()
        return {"grad/norm": norms[finite].mean(), "grad/clipped": clipped}

    def _forget(self, places: Iterable[int]) -> None:
        gone = set(places)
        everything: list[list[Any]] = [self._norms, self._sizes, self._origins]
        for kept in everything:
            kept[:] = [value for place, value in enumerate(kept) if place not in gone]

    def _check(self, trainer: Trainer) -> None:
        if not self._norms or scaler_skips(trainer):
            return
        if found := readings.first_nonfinite(self._norms):
            step, _ = self._origins[found.place]
            self._forget(range(len(self._norms)))
            raise FloatingPointError(
                f"the gradient of optimizer step {step} has norm "
                f"{found.value}.\nLower the learning rate, look at the data, or set "
                "callbacks.nonfinite.action to `skip`."
            )
