"""Make the steps of any module cheaper from outside, without changing a bit of what comes out.

Within ``active()``, the functions of Lightning in ``SEAMS`` are replaced by quicker ones. What a
replacement does not cover goes to Lightning's own. See docs/lightning.md.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

import lightning
import torch
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.plugins import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector import logger_connector, result
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _get_default_dtype,
    _ResultMetric,
)
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning_utilities.core.enums import StrEnum
from packaging.specifiers import SpecifierSet
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric
from torchmetrics.classification import stat_scores

TESTED = SpecifierSet(">=2.6,<2.7")  # versions of Lightning
SWITCH = "LIGHTKEEL_FASTPATH"  # environment variable: 0 leaves Lightning as it is

LOG, ZERO_GRAD = LightningModule.log, LightningModule.optimizer_zero_grad
CLIPPING, CLIP = LightningModule.configure_gradient_clipping, Precision._clip_gradients
CALLBACK_HOOKS, MODULE_HOOK = call._call_callback_hooks, call._call_lightning_module_hook
STEP_OUTPUT, BACKWARD = ClosureResult.from_training_step_output, LightningModule.backward
COUNT = stat_scores._multiclass_stat_scores_update  # type: ignore[attr-defined]
STRATEGY_HOOK, TEARDOWN = call._call_strategy_hook, _LoggerConnector.teardown
EQUAL = StrEnum.__eq__
ONES: dict[tuple[torch.device, torch.dtype], Tensor] = {}
ARGUMENTS = (
    *("prog_bar", "logger", "on_step", "on_epoch", "reduce_fx", "enable_graph", "sync_dist"),
    *("sync_dist_group", "add_dataloader_idx", "metric_attribute", "rank_zero_only"),
)


class Logged(NamedTuple):
    """A call of ``self.log`` that Lightning has checked and registered."""

    arguments: tuple[Any, ...]
    key: str  # in the results
    result: _ResultMetric
    metric: Metric | None  # what was logged; None: a number


def log(
    self: LightningModule,
    name: str,
    value: Any,
    prog_bar: bool = False,
    logger: bool | None = None,
    on_step: bool | None = None,
    on_epoch: bool | None = None,
    reduce_fx: str | Callable[[Any], Any] = "mean",
    enable_graph: bool = False,
    sync_dist: bool = False,
    sync_dist_group: Any = None,
    add_dataloader_idx: bool = True,
    batch_size: int | None = None,
    metric_attribute: str | None = None,
    rank_zero_only: bool = False,
) -> None:
    """``LightningModule.log`` that checks arguments once.

    The first call in a hook goes to Lightning's, which registers a result. From then on the same
    arguments find that result, and a value goes straight to its ``forward``.
    """
    arguments = (
        *(prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist),
        *(sync_dist_group, add_dataloader_idx, metric_attribute, rank_zero_only),
    )
    trainer: Any = self._trainer
    fx = self._current_fx_name
    # Lightning's is known to torch.compile, which is not to trace what follows.
    results = None if trainer is None or torch.compiler.is_compiling() else trainer._results
    if results is not None:
        place = fx, name, results.dataloader_idx, batch_size is None
        known: Logged | None = vars(results).get("logged", {}).get(place)
        if known is not None and known.arguments == arguments:
            connector = trainer._logger_connector
            # Otherwise Lightning may have to reset what the hook has logged in the last epoch.
            goes_on = connector._first_loop_iter is False or connector._current_fx == fx
            number = taken(self, value, known) if goes_on else None
            if number is not None and results.get(known.key) is known.result:
                size = results._extract_batch_size(known.result, batch_size, known.result.meta)
                known.result.forward(number, size)
                known.result.has_reset = False
                connector._current_fx = fx
                return
    given = dict(zip(ARGUMENTS, arguments, strict=True))
    LOG(self, name, value, batch_size=batch_size, **given)
    if results is not None:
        index = results.dataloader_idx if add_dataloader_idx else None
        key = f"{fx}.{name}" if index is None else f"{fx}.{name}.{index}"
        if key in results:
            metric = value if isinstance(value, Metric) else None
            logged = Logged(arguments, key, results[key], metric)
            vars(results).setdefault("logged", {})[place] = logged


def taken(self: LightningModule, value: Any, known: Logged) -> Any:
    """Return what a result is updated with; None: Lightning has to look at the value."""
    if known.metric is not None:
        # Lightning moves a metric each time, which gives it the default dtype at hand.
        same = value is known.metric and value.dtype == torch.get_default_dtype()
        return value if same else None
    device, kind = known.result.value.device, type(value)
    if kind is Tensor and value.device == device and value.numel() == 1:
        return value.squeeze() if value.ndim else value
    if kind in (float, int, bool) and self.device == device:
        # Not `torch.tensor`, which copies from the host and waits for the device.
        return torch.full((), value, dtype=_get_default_dtype(), device=device)
    return None


def unread(value: Tensor) -> Tensor:
    """Leave a value of the progress bar on the device until the bar is drawn."""
    return value


def progress_bar_metrics(self: _LoggerConnector) -> dict[str, float]:
    """``_LoggerConnector.progress_bar_metrics``, which reads what ``unread`` has left."""
    if self.trainer._results:
        self._progress_bar_metrics.update(self.metrics["pbar"])
    self._progress_bar_metrics.update(numbers(self._progress_bar_metrics))
    return self._progress_bar_metrics


def teardown(self: _LoggerConnector) -> None:
    """``_LoggerConnector.teardown``, with nothing left to read."""
    self._progress_bar_metrics.update(numbers(self._progress_bar_metrics))
    TEARDOWN(self)


def numbers(values: Any) -> Any:
    """``convert_tensors_to_scalars`` with one transfer from the device for all of a row."""
    kinds: dict[Any, list[str]] = {}
    for name, value in values.items() if type(values) is dict else ():
        if type(value) is Tensor and value.ndim == 0:
            kinds.setdefault((value.device, value.dtype), []).append(name)
    read: dict[str, Any] = {}
    for names in kinds.values():
        together = torch.stack([values[name] for name in names]).tolist()
        read.update(zip(names, together, strict=True))
    return convert_tensors_to_scalars(values | read if read else values)  # what is left


def call_callback_hooks(
    trainer: Any,
    hook_name: str,
    *args: Any,
    monitoring_callbacks: bool | None = None,
    **kwargs: Any,
) -> None:
    """``_call_callback_hooks`` without contexts of a profiler, and idle hooks."""
    module = trainer.lightning_module
    if monitoring_callbacks is not None or type(trainer.profiler) is not PassThroughProfiler:
        kwargs["monitoring_callbacks"] = monitoring_callbacks
        CALLBACK_HOOKS(trainer, hook_name, *args, **kwargs)
        return
    before = module._current_fx_name
    # Not by `setattr`: PyTorch would look whether it is a parameter, a module or a buffer.
    module.__dict__["_current_fx_name"] = hook_name
    for callback in overriding(trainer, hook_name):
        getattr(callback, hook_name)(trainer, module, *args, **kwargs)
    module.__dict__["_current_fx_name"] = before


def overriding(trainer: Any, hook_name: str) -> list[Callback]:
    """List the callbacks that have a hook of their own, looked for once while they are the same."""
    known: dict[str, tuple[list[Callback], ...]] = vars(trainer).setdefault("overriding", {})
    of, found = known.get(hook_name, ([], []))
    # A hook of its own, not of its class, may be there only now.
    if of != trainer.callbacks or [c for c in trainer.callbacks if hook_name in c.__dict__]:
        idle = getattr(Callback, hook_name, None)
        hooks = [(c, getattr(c, hook_name)) for c in trainer.callbacks]
        found = [c for c, h in hooks if getattr(h, "__func__", h) is not idle and callable(h)]
        known[hook_name] = list(trainer.callbacks), found
    return found


def call_module_hook(
    trainer: Any,
    hook_name: str,
    *args: Any,
    pl_module: LightningModule | None = None,
    **kwargs: Any,
) -> Any:
    """``_call_lightning_module_hook`` without a context of a profiler."""
    module = pl_module or trainer.lightning_module
    if type(trainer.profiler) is not PassThroughProfiler:
        return MODULE_HOOK(trainer, hook_name, *args, pl_module=pl_module, **kwargs)
    hook = getattr(module, hook_name)
    if not callable(hook):
        return None
    before = module._current_fx_name
    module.__dict__["_current_fx_name"] = hook_name
    output = hook(*args, **kwargs)
    module.__dict__["_current_fx_name"] = before
    return output


def call_strategy_hook(trainer: Any, hook_name: str, *args: Any, **kwargs: Any) -> Any:
    """``_call_strategy_hook`` without a context of a profiler."""
    if type(trainer.profiler) is not PassThroughProfiler:
        return STRATEGY_HOOK(trainer, hook_name, *args, **kwargs)
    module = trainer.lightning_module
    before = module._current_fx_name
    module.__dict__["_current_fx_name"] = hook_name
    output = getattr(trainer.strategy, hook_name)(*args, **kwargs)
    module.__dict__["_current_fx_name"] = before
    return output


def is_parameter(
    hook_fx: Callable[..., Any], param: str, explicit: bool = False, min_args: int | None = None
) -> bool:
    """``is_param_in_hook_signature``, which reads the signature of a function once."""
    return look_up(getattr(hook_fx, "__func__", hook_fx), param, explicit, min_args)


look_up = cache(is_param_in_hook_signature)


def zero_grad(self: LightningModule, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
    """``LightningModule.optimizer_zero_grad`` without a record for PyTorch's profiler."""
    if type(optimizer).zero_grad is not Optimizer.zero_grad:
        ZERO_GRAD(self, epoch, batch_idx, optimizer)
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


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
    loss.backward(one)  # type: ignore[no-untyped-call]


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


def equal(self: StrEnum, other: object) -> bool:
    """``StrEnum.__eq__``, asked for the stage of the trainer 18 times a step."""
    return self is other or EQUAL(self, other)


# What is replaced, and why; microseconds are those of a step of linear regression, of 520.
SEAMS: tuple[tuple[Any, str, Any], ...] = (
    # Checks, metadata and moves for each value: 300 a value, 10 to 16 without.
    (LightningModule, "log", log),
    # The host waits for the device in each step that logs with `prog_bar`.
    (result, "convert_tensors_to_scalars", unread),
    (_LoggerConnector, "progress_bar_metrics", property(progress_bar_metrics)),
    (_LoggerConnector, "teardown", teardown),
    # The host waits for the device once a value, and not once a row.
    (logger_connector, "convert_tensors_to_scalars", numbers),
    # Contexts of profilers, and PyTorch's search for parameters: 65, 50 and 20.
    (call, "_call_callback_hooks", call_callback_hooks),
    (call, "_call_lightning_module_hook", call_module_hook),
    (call, "_call_strategy_hook", call_strategy_hook),
    # The signature of `training_step`: 25.
    (training_epoch_loop, "is_param_in_hook_signature", is_parameter),
    # A record for a profiler: 25.
    (LightningModule, "optimizer_zero_grad", zero_grad),
    # Two hooks to find that there is no limit: 17.
    (Precision, "_clip_gradients", clip_gradients),
    # Operations of a device: two, one, and five for each update of an accuracy.
    (ClosureResult, "from_training_step_output", step_output),
    (LightningModule, "backward", backward),
    (stat_scores, "_multiclass_stat_scores_update", count_classes),
    # Texts in lower case: 17.
    (StrEnum, "__eq__", equal),
)


def is_wanted() -> bool:
    """Tell whether this version of Lightning was tested, and nobody has switched it off."""
    return os.environ.get(SWITCH) != "0" and lightning.__version__ in TESTED


def is_active() -> bool:
    """Tell whether functions of Lightning are replaced at the moment."""
    return LightningModule.log is log


@contextmanager
def active() -> Iterator[None]:
    """Replace functions of Lightning within this block, for all trainers, where ``is_wanted``."""
    with ExitStack() as replaced:
        for owner, name, replacement in SEAMS if is_wanted() else ():
            replaced.enter_context(patch.object(owner, name, replacement))
        yield
