"""How hooks are called, and how the trainer finds what it has asked before."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import model_helpers
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

CALLBACK_HOOKS, MODULE_HOOK = call._call_callback_hooks, call._call_lightning_module_hook
STRATEGY_HOOK, PROFILE = call._call_strategy_hook, PassThroughProfiler.profile
IS_OVERRIDDEN, RESULTS = model_helpers.is_overridden, Trainer._results
OVERRIDDEN: dict[tuple[Any, ...], bool] = {}


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
    known: dict[str, tuple[list[Callback], ...]] = trainer.__dict__.setdefault("overriding", {})
    of, found = known.get(hook_name, ([], []))
    # A hook of its own, not of its class, may be there only now.
    if of != trainer.callbacks or [c for c in trainer.callbacks if hook_name in c.__dict__]:
        idle = getattr(Callback, hook_name, None)
        hooks = [(c, getattr(c, hook_name, None)) for c in trainer.callbacks]
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


def results(self: Trainer) -> Any:
    """``Trainer._results``, which asks once whether it is training."""
    if self.state.stage is RunningStage.TRAINING:
        return self.fit_loop.epoch_loop._results
    return RESULTS.__get__(self)


def is_overridden(method_name: str, instance: Any = None, parent: Any = None) -> bool:
    """``is_overridden``, which compares the code of a method once."""
    function = getattr(getattr(instance, method_name, None), "__func__", None)
    if function is None or parent is not None:
        return IS_OVERRIDDEN(method_name, instance, parent)
    place = method_name, function, type(instance)
    if place not in OVERRIDDEN:
        OVERRIDDEN[place] = IS_OVERRIDDEN(method_name, instance)
    return OVERRIDDEN[place]


def profile(self: PassThroughProfiler, action_name: str) -> Any:
    """``PassThroughProfiler.profile`` without a generator."""
    if type(self) is not PassThroughProfiler:
        return PROFILE(self, action_name)
    return nullcontext(action_name)
