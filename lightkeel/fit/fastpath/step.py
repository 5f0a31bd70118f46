"""What a step computes beside the model: gradients, their clipping, metrics, the optimizer."""

from contextlib import nullcontext
from inspect import unwrap
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.plugins import Precision
from torch import Tensor
from torch.autograd import profiler
from torch.autograd.graph import _engine_run_backward
from torch.nn import Module
from torch.optim import Optimizer
from torch.overrides import has_torch_function_unary
from torch.utils import _foreach_utils
from torchmetrics import Metric
from torchmetrics.classification import stat_scores

CLIPPING, CLIP = LightningModule.configure_gradient_clipping, Precision._clip_gradients
STEP_OUTPUT, BACKWARD = ClosureResult.from_training_step_output, LightningModule.backward
COUNT = stat_scores._multiclass_stat_scores_update  # type: ignore[attr-defined]
NAMES = "_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"
CHECK_NAME = next(name for name in NAMES if hasattr(Optimizer, name))  # until PyTorch 2.8: the last
CHECK = getattr(Optimizer, CHECK_NAME)
SET_ATTRIBUTE, RECORD = Metric.__setattr__, profiler.record_function
PLAIN = {bool, int, float, str, type(None)}
NOTHING = nullcontext()
ONES: dict[tuple[torch.device, torch.dtype], Tensor] = {}


def clip_gradients(
    self: Precision, model: Any, optimizer: Any, clip_val: Any = None, *args: Any, **kwargs: Any
) -> None:
    """``Precision._clip_gradients``, which asks nobody where nothing is to be clipped."""
    hook = getattr(model, "configure_gradient_clipping", None)
    if clip_val is not None or getattr(hook, "__func__", None) is not CLIPPING:
        CLIP(self, model, optimizer, clip_val, *args, **kwargs)


def step_output(output: Any, normalize: int = 1) -> ClosureResult:
    """``ClosureResult.from_training_step_output`` that copies a loss and does not divide it by 1.

    Callbacks may change what is returned in place, as they may with Lightning's.
    """
    if normalize != 1 or type(output) is not Tensor or not output.is_floating_point():
        return STEP_OUTPUT(output, normalize)
    result = ClosureResult(None)
    result.closure_loss, result.loss = output.clone(), output.detach()
    return result


def backward(self: LightningModule, loss: Tensor, *args: Any, **kwargs: Any) -> None:
    """``LightningModule.backward`` with the gradient of a loss, 1, made once."""
    if args or kwargs or self._fabric or type(loss) is not Tensor or loss.ndim:
        BACKWARD(self, loss, *args, **kwargs)
        return
    one = ONES.get((loss.device, loss.dtype))
    if one is None or one._version:  # somebody has changed it in place
        one = ONES[loss.device, loss.dtype] = torch.ones_like(loss, requires_grad=False)
    if has_torch_function_unary(loss):  # somebody watches all of PyTorch's functions
        loss.backward(one)  # type: ignore[no-untyped-call]
    else:
        options = {"allow_unreachable": True, "accumulate_grad": True}
        _engine_run_backward((loss,), (one,), False, False, (), **options)


def count_classes(
    preds: Tensor, target: Tensor, num_classes: int, *options: Any, **named: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``_multiclass_stat_scores_update`` which, of a micro average, counts what is right alone.

    Of n samples in C classes: each wrong one is false positive of one class, false negative of
    another and true negative of the rest; each right one is true negative of all others.
    """
    if named or options != (1, "micro", "global", None):
        return COUNT(preds, target, num_classes, *options, **named)
    right = (preds.flatten() == target.flatten()).sum()
    wrong = preds.numel() - right
    return right, wrong, right + preds.numel() * (num_classes - 2), wrong


def set_attribute(self: Module, name: str, value: Any) -> None:
    """``Module.__setattr__`` that does not look whether a number or a tensor is a parameter."""
    is_plain = type(value) in PLAIN or (type(value) is Tensor and not hasattr(value, "_is_buffer"))
    if is_plain and name in self.__dict__:
        object.__setattr__(self, name, value)
    elif isinstance(self, Metric):
        SET_ATTRIBUTE(self, name, value)
    else:
        Module.__setattr__(self, name, value)


def record(name: str, args: str | None = None) -> Any:
    """``record_function``, where somebody records."""
    return RECORD(name, args) if profiler._is_profiler_enabled else NOTHING


def capture_check(self: Optimizer) -> None:
    """``_accelerator_graph_capture_health_check``, where a CUDA graph is captured, or to warn."""
    cuda: Any = torch.cuda
    is_capturing = cuda.is_initialized() and cuda.is_current_stream_capturing()
    if is_capturing or not getattr(self, "_warned_capturable_if_run_uncaptured", False):
        CHECK(self)


# Without a context of gradients, of which it computes none.
group_tensors = unwrap(_foreach_utils._group_tensors_by_device_and_dtype)
