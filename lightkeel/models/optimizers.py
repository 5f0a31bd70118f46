"""Optimizer and learning-rate schedule from plain settings: ``{"name": "AdamW", "lr": 0.001}``."""

import importlib
import inspect
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from ..errors.checks import suggest
from .muon import MuonSGD

Settings = Mapping[str, Any]

# The argument of each schedule with a horizon that is filled in from the length of the run.
HORIZON = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max", "PolynomialLR": "total_iters"}
PER_STEP = {*HORIZON, "CyclicLR"}
# Arguments in units of the learning rate: a group with a multiplier gets its own.
PER_GROUP = ("max_lr", "base_lr")
NO_HORIZON = (
    "lr_scheduler.{key}: cannot be derived, the run has no known length. "
    "Give {instead}, or set trainer.max_epochs (trainer.max_steps for a stream)."
)
# What torch raises for settings that it does not like; the last for `capturable` on the CPU.
REFUSALS = (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, AssertionError)


class _Kind(NamedTuple):
    """What settings name a class of: an optimizer, or a schedule."""

    key: str
    base: type
    home: str
    example: str
    own_keys: tuple[str, ...]  # no arguments of the class

    def read(self, settings: Settings) -> tuple[Any, dict[str, Any]]:
        """Find the class and its arguments."""
        known = {"MuonSGD": MuonSGD, **vars(importlib.import_module(self.home))}
        known = {n: cls for n, cls in known.items() if self.fits(cls) and cls is not self.base}
        name, key = settings.get("name"), f"{self.key}.name"
        if not isinstance(name, str):
            raise ValueError(f"{key}: missing. Give one of {self.home}, such as {self.example}.")
        module, _, attribute = name.rpartition(".")
        if not module and name not in known:
            raise ValueError(f"{key}: {self.home} has no `{name}`. {suggest(name, known)}")
        try:
            cls = getattr(importlib.import_module(module), attribute) if module else known[name]
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{key}: cannot import `{name}` ({error}).") from None
        if not self.fits(cls):
            raise ValueError(f"{key}: `{name}` is no {self.base.__name__}.")
        return cls, {key: value for key, value in settings.items() if key not in self.own_keys}

    def fits(self, cls: Any) -> bool:
        """Tell whether this is such a class."""
        return inspect.isclass(cls) and issubclass(cls, self.base)

    def check(self, cls: type, given: Settings) -> None:
        """Check arguments by name, and that those are numbers that should be."""
        known = inspect.signature(cls).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            return
        options = {name: p for name, p in known.items() if name not in ("params", "optimizer")}
        for name in [name for name in given if name not in options]:
            hint = suggest(name, [*self.own_keys, *options])
            raise ValueError(f"{self.key}.{name}: {cls.__name__} has no such option. {hint}")
        for name, parameter in options.items():
            if parameter.default is parameter.empty and name not in given:
                raise ValueError(f"{self.key}.{name}: {cls.__name__} needs it.")
            value = given.get(name, 0.0)
            if isinstance(parameter.default, (int, float)) and not isinstance(value, (int, float)):
                raise ValueError(f"{self.key}.{name}: {value!r} is no number.")


OPTIMIZER = _Kind(
    *("optimizer", Optimizer, "torch.optim", "AdamW"),
    ("name", "decay_bias_and_norm", "lr_multipliers"),
)
SCHEDULE = _Kind(
    *("lr_scheduler", LRScheduler, "torch.optim.lr_scheduler", "CosineAnnealingLR"),
    ("name", "interval", "frequency", "monitor", "warmup_steps", "warmup_fraction"),
)


def check_optimizers(optimizer: Settings, lr_scheduler: Settings | None = None) -> None:
    """Raise ``ValueError`` for settings that cannot work, before there is a model.

    Args:
        optimizer: ``name`` of a class in ``torch.optim``, ``MuonSGD`` or a dotted path;
            ``decay_bias_and_norm`` (default false): decay one-dimensional parameters too;
            ``lr_multipliers``: pattern of parameter names (``*``, ``?``) to factor on the learning
            rate, first match wins; the rest are the arguments of the class.
        lr_scheduler: ``name`` of a class in ``torch.optim.lr_scheduler`` or a dotted path;
            ``interval`` (``step`` or ``epoch``; default: step where the class is made for it, see
            ``PER_STEP``); ``frequency``: intervals from one update to the next; ``monitor``: the
            metric ``ReduceLROnPlateau`` watches; ``warmup_steps`` (in updates) or
            ``warmup_fraction`` of the run: linear warm-up before it; the rest are the arguments of
            the class. Horizons (see ``HORIZON``) that are left out are the length of the run, and
            the ``max_lr`` of ``OneCycleLR`` is the optimizer's ``lr``, else of no effect.
    """
    OPTIMIZER.check(*OPTIMIZER.read(optimizer))
    multipliers = optimizer.get("lr_multipliers") or {}
    if not isinstance(multipliers, Mapping):
        raise ValueError(f"optimizer.lr_multipliers: {multipliers} maps no names to factors.")
    for pattern, factor in multipliers.items():
        if not isinstance(factor, (int, float)) or factor < 0:
            raise ValueError(f"optimizer.lr_multipliers.{pattern}: {factor} is not a number >= 0.")
    decay = optimizer.get("decay_bias_and_norm", False)
    if not isinstance(decay, bool):
        raise ValueError(f"optimizer.decay_bias_and_norm: {decay!r} is no boolean.")
    tried = _try_optimizer(optimizer)
    if lr_scheduler is None:
        return
    cls, given = SCHEDULE.read(lr_scheduler)
    if cls.__name__ in HORIZON:
        given.setdefault(HORIZON[cls.__name__], 1009)  # prime: no share of it is one step
    _set_peak(cls, given, tried)
    SCHEDULE.check(cls, given)
    _check_timing(lr_scheduler)
    plateau = issubclass(cls, ReduceLROnPlateau)
    for key in ("warmup_steps", "warmup_fraction") if plateau else ("monitor",):
        if lr_scheduler.get(key):
            why = f"{cls.__name__} makes no use of it. Leave it out."
            raise ValueError(f"lr_scheduler.{key}: {why}")
    try:
        schedule = cls(tried, **given)
        tried.step(lambda: 0.0)
        schedule.step(*([0.0] if plateau else []))
    except REFUSALS as error:
        raise ValueError(f"lr_scheduler: {cls.__name__} refuses its settings: {error}") from None


def configure_optimizers(
    module: LightningModule, optimizer: Settings, lr_scheduler: Settings | None = None
) -> OptimizerLRScheduler:
    """Build what ``LightningModule.configure_optimizers`` returns, with the module's trainer.

    Settings are as in ``check_optimizers``.

    Raises:
        ValueError: They do not fit the module, its device, or the run.
    """
    try:
        precision = getattr(module.trainer, "precision_plugin", None)
    except RuntimeError:  # there is no trainer
        precision = None
    # Where losses are scaled, a fused optimizer would unscale gradients after they are clipped.
    is_scaled = getattr(precision, "scaler", None) is not None
    built = build_optimizer(module, optimizer, may_fuse=not is_scaled)
    if lr_scheduler is None:
        return built
    trainer, name = module.trainer, str(lr_scheduler["name"]).rpartition(".")[2]
    has_own = HORIZON.get(name, "") in lr_scheduler and name != "OneCycleLR"
    default = "step" if name in PER_STEP and not has_own else "epoch"
    interval = lr_scheduler.get("interval") or default
    frequency = int(lr_scheduler.get("frequency") or 1)
    horizon = _num_steps(trainer) if interval == "step" else int(trainer.max_epochs or -1)
    schedule = _build_scheduler(built, lr_scheduler, horizon // frequency)
    monitor = lr_scheduler.get("monitor") or "val/loss"
    unseen = monitor.startswith("val/") and not trainer.limit_val_batches
    if unseen and isinstance(schedule, ReduceLROnPlateau):
        raise ValueError(f"lr_scheduler.monitor: `{monitor}` is never logged without validation.")
    config: Any = {"scheduler": schedule, "interval": interval, "frequency": frequency}
    return {"optimizer": built, "lr_scheduler": config | {"monitor": monitor}}


def build_optimizer(module: nn.Module, settings: Settings, may_fuse: bool = True) -> Optimizer:
    """Build the optimizer, over groups of parameters by multiplier and by whether they decay.

    On a GPU, Adam and AdamW are fused where they may be, and nothing else is asked for.
    """
    settings = _fused(settings, module) if may_fuse else settings
    cls, given = OPTIMIZER.read(settings)
    _try_optimizer(settings, next(module.parameters(), torch.empty(0)).device)
    multipliers = settings.get("lr_multipliers") or {}
    groups: dict[str, dict[str, Any]] = {}
    unused = set(multipliers)
    for name, parameter in module.named_parameters():
        pattern = next((p for p in multipliers if fnmatchcase(name, p)), None)
        unused.discard(pattern)
        # Biases and the weights of norms have one dimension; decaying them does not regularize.
        decay = settings.get("decay_bias_and_norm", False) or parameter.ndim > 1
        key = (f"{pattern}/" if pattern else "") + ("decay" if decay else "no_decay")
        new = {"name": key, "decay": decay, "lr_multiplier": multipliers.get(pattern, 1.0)}
        if parameter.requires_grad:
            groups.setdefault(key, {"params": [], **new})["params"].append(parameter)
    if unused:
        raise ValueError(
            f"optimizer.lr_multipliers.{min(unused)}: no parameter has such a name that no pattern "
            "before it matches."
        )
    optimizer: Optimizer = cls(list(groups.values()), **given)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * group["lr_multiplier"]
        if "weight_decay" in group and not group["decay"]:
            group["weight_decay"] = 0.0
    return optimizer


def _build_scheduler(optimizer: Optimizer, settings: Settings, horizon: int) -> LRScheduler:
    """Build the schedule and its warm-up, for ``horizon`` updates; below 1: nobody knows."""
    cls, given = SCHEDULE.read(settings)
    fraction = float(settings.get("warmup_fraction") or 0)
    warmup = int(settings.get("warmup_steps") or round(fraction * horizon))
    missing = HORIZON.get(cls.__name__)
    if fraction and horizon < 1:
        raise ValueError(NO_HORIZON.format(key="warmup_fraction", instead="warmup_steps"))
    if missing and missing not in given:
        if horizon < 1:
            raise ValueError(NO_HORIZON.format(key=missing, instead="it"))
        if horizon <= warmup:
            raise ValueError(
                f"lr_scheduler.warmup_steps: {warmup} of warm-up leave nothing of a run of "
                f"{horizon} updates of the schedule. Use fewer than {horizon}."
            )
        given[missing] = horizon - warmup
    for key in PER_GROUP:
        if isinstance(value := given.get(key), (int, float)):
            given[key] = [value * group["lr_multiplier"] for group in optimizer.param_groups]
    _set_peak(cls, given, optimizer)
    main: LRScheduler = cls(optimizer, **given)
    if warmup < 1 or isinstance(main, ReduceLROnPlateau):
        return main
    # From 1/warmup of the learning rate at the first step to all of it at step `warmup`.
    ramp = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [ramp, main], milestones=[warmup])


def _set_peak(cls: type, given: dict[str, Any], optimizer: Optimizer) -> None:
    """Have one cycle go up to the optimizer's own rate, which it takes no notice of by itself."""
    if cls.__name__ == "OneCycleLR":
        given.setdefault("max_lr", [group["lr"] for group in optimizer.param_groups])


def follow_validation(trainer: Trainer) -> None:
    """Have schedules that watch validation each epoch wait for it, where not each is validated."""
    every = trainer.check_val_every_n_epoch or 1
    for config in trainer.lr_scheduler_configs:
        watches = config.reduce_on_plateau and str(config.monitor).startswith("val")
        if watches and config.interval == "epoch":
            config.frequency = math.lcm(config.frequency, every)


def _num_steps(trainer: Trainer) -> int:
    """Count the optimizer steps of the whole run, with accumulation set by a callback."""
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        return trainer.max_steps
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if math.isinf(batches):  # a stream
        return trainer.max_steps
    windows = [trainer.accumulate_grad_batches] * trainer.max_epochs
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            windows = [*map(callback.get_accumulate_grad_batches, range(trainer.max_epochs))]
    steps = sum(math.ceil(batches / window) for window in windows)
    return min(steps, trainer.max_steps) if trainer.max_steps > 0 else steps


def _check_timing(settings: Settings) -> None:
    if (interval := settings.get("interval", "epoch")) not in ("step", "epoch"):
        raise ValueError(f"lr_scheduler.interval: {interval!r} is neither `step` nor `epoch`.")
    for key, least in {"frequency": 1, "warmup_steps": 0}.items():
        count = settings.get(key)
        if count is not None and (not isinstance(count, int) or count < least):
            raise ValueError(f"lr_scheduler.{key}: {count!r} is no whole number >= {least}.")
    fraction = settings.get("warmup_fraction") or 0
    if not isinstance(fraction, (int, float)) or not 0 <= fraction < 1:
        raise ValueError(f"lr_scheduler.warmup_fraction: {fraction!r} is not in [0, 1).")
    if fraction and settings.get("warmup_steps"):
        raise ValueError("lr_scheduler: give `warmup_steps` or `warmup_fraction`, not both.")


def _fused(settings: Settings, module: nn.Module) -> Settings:
    """Ask for one kernel a group and step, where PyTorch takes ten.

    Adam and AdamW alone: fused SGD fails for sharded weights, sparse gradients, and with momentum
    where a parameter has its first gradient later than others.
    """
    cls, given = OPTIMIZER.read(settings)
    parameters = list(module.parameters())
    if (
        cls not in (torch.optim.Adam, torch.optim.AdamW)  # a subclass may not take `fused`
        or given.keys() & {"fused", "foreach", "capturable", "differentiable"}
        or not parameters
        or not all(p.is_cuda and p.is_floating_point() for p in parameters)
    ):
        return settings
    return {**settings, "fused": True}


def _try_optimizer(settings: Settings, device: torch.device | None = None) -> Optimizer:
    """Build the optimizer over a weight and a bias, in two groups, and take a step."""
    cls, given = OPTIMIZER.read(settings)
    if device is None:  # not known yet: it is the CPU here, which has no `capturable`
        given.pop("capturable", None)
    parameters = [nn.Parameter(torch.zeros(shape, device=device)) for shape in ((2, 2), (2,))]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    # Any optimizer asks CUDA a few things: what fails here is no fault of the settings.
    torch.optim.Adam(parameters).step()
    try:
        optimizer: Optimizer = cls([{"params": [parameter]} for parameter in parameters], **given)
        optimizer.step(lambda: 0.0)
    except REFUSALS as error:
        refuses = f"{cls.__name__} refuses its settings" + (f" on {device.type}" if device else "")
        raise ValueError(f"optimizer: {refuses}: {error}") from None
    return optimizer
