"""Find the first layer whose numbers are no longer finite."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric

from .readings import scaler_of


class LayerCheck(Callback):
    """Stop at the first layer whose output or gradient is NaN or infinite, and name it.

    A layer is a module with no others in it. Each output is read, so steps take far longer: for
    finding out, as in ``configs/overlays/debug.yaml``.

    Args:
        gradients: Whether to look at gradients too; not those of 16-bit precision, which its
            scaler makes infinite at times.

    Raises:
        FloatingPointError: An output or a gradient was not finite.
    """

    def __init__(self, gradients: bool = True) -> None:
        self.gradients = gradients
        self._handles: list[RemovableHandle] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, layer in pl_module.named_modules():
            if next(layer.children(), None) is None and not isinstance(layer, Metric):
                title = f"layer `{name}` ({type(layer).__name__})"
                hook = partial(self._check_output, trainer, title)
                self._handles.append(layer.register_forward_hook(hook))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    on_exception = on_train_end

    def _check_output(
        self, trainer: Trainer, title: str, layer: nn.Module, inputs: Any, outputs: Any
    ) -> None:
        step = trainer.global_step
        if not is_finite(outputs):
            cause = "Its input and weights are finite."
            if not is_finite(inputs):
                cause = "Its input is not finite: look at the data."
            elif not is_finite(list(layer.parameters())):
                cause = "Its weights are not finite: lower the learning rate."
            text = f"{title} is the first whose output is not finite, at optimizer step {step}."
            raise FloatingPointError(f"{text}\n{cause}")

        def check_gradient(gradient: Tensor) -> None:
            if not is_finite(gradient):
                raise FloatingPointError(
                    f"{title} is the first, counted from the loss, whose gradient is not finite, "
                    f"at optimizer step {step}.\nLook at what is done with its output."
                )

        if self.gradients and scaler_of(trainer) is None:
            for output in tensors_in(outputs):
                if output.requires_grad:
                    output.register_hook(check_gradient)  # type: ignore[no-untyped-call]


def tensors_in(values: Any) -> list[Tensor]:
    """List the tensors in nested lists, tuples and mappings."""
    if isinstance(values, Tensor):
        return [values]
    parts = values.values() if isinstance(values, Mapping) else values
    nested = isinstance(values, (list, tuple, Mapping))
    return [tensor for part in parts for tensor in tensors_in(part)] if nested else []


def is_finite(values: Any) -> bool:
    """Tell whether all tensors in any nesting hold neither NaN nor infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors_in(values))
