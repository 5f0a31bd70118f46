"""Optimizer and learning-rate schedule from plain settings.

Settings are flat mappings of plain values, so that they live in YAML, on the command line and in
checkpoints unchanged: ``{"name": "AdamW", "lr": 0.001}``. Everything but the keys documented below
goes to the constructor of the named class.
"""

import importlib
import inspect
import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from ..errors.checks import suggest
from .muon import MuonSGD

Settings = Mapping[str, Any]

# The argument of each schedule with a horizon that is filled in from the length of the run.
HORIZON = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max", "PolynomialLR": "total_iters"}
PER_STEP = {*HORIZON, "CyclicLR"}
# Arguments in units of the learning rate: a group with a multiplier gets its own.
PER_GROUP = ("max_lr", "base_lr")
_NO_HORIZON = (
    "lr_scheduler.{key}: cannot be derived, the run has no known length. "
    "Give {instead}, or set trainer.max_epochs (trainer.max_steps for a stream)."
)
# What torch raises for settings that it does not like.
REFUSALS = (
    *(ValueError, TypeError, ArithmeticError, LookupError, RuntimeError),
    AssertionError,  # `capturable` on the CPU
)
OWN = {"MuonSGD": MuonSGD}  # beside torch's classes
OPTIMIZER_KEYS = ("name", "decay_bias_and_norm", "lr_multipliers")
SCHEDULER_KEYS = ("name", "interval", "frequency", "monitor", "warmup_steps", "warmup_fraction")


def check_optimizer(settings: Settings) -> None:
    """Raise ``ValueError`` for an optimizer that cannot be built, before there is a model.

    Args:
        settings: ``name`` of a class in ``torch.optim``, ``MuonSGD`` or a dotted path;
            ``decay_bias_and_norm`` (default false): decay one-dimensional parameters too;
            ``lr_multipliers``: pattern of parameter names (``*``, ``?``) to factor on the learning
            rate, first match wins; the rest are the arguments of the class.
    """
    cls = _find_class("optimizer", torch.optim, Optimizer, settings)
    arguments = _arguments(settings, OPTIMIZER_KEYS)
    _check_arguments("optimizer", cls, arguments, OPTIMIZER_KEYS, given=("params",))
    multipliers = settings.get("lr_multipliers") or {}
    if not isinstance(multipliers, Mapping):
        raise ValueError(f"optimizer.lr_multipliers: {multipliers} maps no names to factors.")
    for pattern, factor in multipliers.items():
        if not isinstance(factor, (int, float)) or factor < 0:
            raise ValueError(f"optimizer.lr_multipliers.{pattern}: {factor} is not a number >= 0.")
    if not isinstance(settings.get("decay_bias_and_norm", False), bool):
        raise ValueError(
            f"optimizer.decay_bias_and_norm: {settings['decay_bias_and_norm']!r} is no boolean."
        )
    _try_optimizer(settings)


def check_scheduler(settings: Settings | None, optimizer: Settings) -> None:
    """Raise ``ValueError`` for a schedule that cannot be built, before there is a model.

    Args:
        settings: ``name`` of a class in ``torch.optim.lr_scheduler`` or a dotted path; ``interval``
            (``step`` or ``epoch``; default: step where the class is made for it, see ``PER_STEP``);
            ``frequency``: intervals from one update to the next; ``monitor``: the metric
            ``ReduceLROnPlateau`` watches; ``warmup_steps`` (in updates) or ``warmup_fraction`` of
            the run: linear warm-up before it; the rest are the arguments of the class. Horizons
            (see ``HORIZON``) that are left out are the length of the run.
        optimizer: Settings of the optimizer that it is for.
    """
    if settings is None:
        return
    cls = _find_class("lr_scheduler", lr_scheduler, LRScheduler, settings)
    arguments = _arguments(settings, SCHEDULER_KEYS)
    if cls.__name__ in HORIZON:
        arguments.setdefault(HORIZON[cls.__name__], 1009)  # prime: no share of it is one step
    _check_arguments("lr_scheduler", cls, arguments, SCHEDULER_KEYS, given=("optimizer",))
    _check_timing(settings)
    plateau = issubclass(cls, ReduceLROnPlateau)
    for key in ("warmup_steps", "warmup_fraction") if plateau else ("monitor",):
        if settings.get(key):
            raise ValueError(
                f"lr_scheduler.{key}: {cls.__name__} makes no use of it. Leave it out."
            )
    optimizer_tried = _try_optimizer(optimizer)
    try:
        schedule = cls(optimizer_tried, **arguments)
        optimizer_tried.step(lambda: 0.0)
        schedule.step(*([0.0] if plateau else []))
    except REFUSALS as error:
        raise ValueError(f"lr_scheduler: {cls.__name__} refuses its settings: {error}") from None


def configure(
    module: LightningModule, optimizer: Settings, scheduler: Settings | None
) -> OptimizerLRScheduler:
    """Build what ``configure_optimizers`` returns, for a module attached to its trainer."""
    built = build_optimizer(module, optimizer)
    if scheduler is None:
        return built
    trainer = module.trainer
    monitor = scheduler.get("monitor") or "val/loss"
    interval = scheduler.get("interval") or _default_interval(scheduler)
    frequency = int(scheduler.get("frequency") or 1)
    horizon = num_steps(trainer) if interval == "step" else int(trainer.max_epochs or -1)
    schedule = build_scheduler(built, scheduler, horizon // frequency)
    if isinstance(schedule, ReduceLROnPlateau):
        _check_monitor(monitor, module)
    return {
        "optimizer": built,
        "lr_scheduler": {
            "scheduler": schedule,
            "interval": interval,
            "frequency": frequency,
            "monitor": monitor,
        },
    }


def build_optimizer(module: nn.Module, settings: Settings) -> Optimizer:
    """Build the optimizer over named parameter groups.

    Raises:
        ValueError: A pattern of ``lr_multipliers`` matches no parameter, or the optimizer cannot be
            used so on the device of the module.
    """
    cls = _find_class("optimizer", torch.optim, Optimizer, settings)
    _try_optimizer(settings, next(module.parameters(), torch.empty(0)).device)
    multipliers = settings.get("lr_multipliers") or {}
    groups = parameter_groups(
        module.named_parameters(), multipliers, bool(settings.get("decay_bias_and_norm", False))
    )
    optimizer: Optimizer = cls(groups, **_arguments(settings, OPTIMIZER_KEYS))
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * group["lr_multiplier"]
        if "weight_decay" in group and not group["decay"]:
            group["weight_decay"] = 0.0
    return optimizer


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    multipliers: Mapping[str, float],
    decay_bias_and_norm: bool,
) -> list[dict[str, Any]]:
    """Split trainable parameters by learning-rate multiplier and by whether they decay.

    Biases and the weights of norms have one dimension; decaying them does not regularize.
    """
    groups: dict[str, dict[str, Any]] = {}
    unused = set(multipliers)
    for name, parameter in named_parameters:
        pattern = next((p for p in multipliers if fnmatchcase(name, p)), None)
        unused.discard(pattern or "")
        if not parameter.requires_grad:
            continue
        decay = decay_bias_and_norm or parameter.ndim > 1
        key = (f"{pattern}/" if pattern else "") + ("decay" if decay else "no_decay")
        factor = multipliers[pattern] if pattern else 1.0
        new = {"params": [], "name": key, "decay": decay, "lr_multiplier": factor}
        groups.setdefault(key, new)["params"].append(parameter)
    if unused:
        raise ValueError(
            f"optimizer.lr_multipliers.{sorted(unused)[0]}: no parameter has such a name that no "
            "pattern before it matches."
        )
    return list(groups.values())


def build_scheduler(optimizer: Optimizer, settings: Settings, horizon: int) -> LRScheduler:
    """Build the schedule, with its warm-up.

    Args:
        optimizer: As built by ``build_optimizer``.
        settings: See ``check_scheduler``.
        horizon: Length of the run in updates of the schedule; below 1 where it is not known.

    Raises:
        ValueError: What is to be derived from the length of the run cannot be.
    """
    cls = _find_class("lr_scheduler", lr_scheduler, LRScheduler, settings)
    arguments = _arguments(settings, SCHEDULER_KEYS)
    fraction = float(settings.get("warmup_fraction") or 0)
    warmup = int(settings.get("warmup_steps") or round(fraction * horizon))
    missing = HORIZON.get(cls.__name__)
    if fraction and horizon < 1:
        raise ValueError(_NO_HORIZON.format(key="warmup_fraction", instead="warmup_steps"))
    if missing and missing not in arguments:
        if horizon < 1:
            raise ValueError(_NO_HORIZON.format(key=missing, instead="it"))
        if horizon <= warmup:
            raise ValueError(
                f"lr_scheduler.warmup_steps: {warmup} of warm-up leave nothing of a run of "
                f"{horizon} updates of the schedule. Use fewer than {horizon}."
            )
        arguments[missing] = horizon - warmup
    for key in PER_GROUP:
        if isinstance(arguments.get(key), (int, float)):
            value = arguments[key]
            arguments[key] = [value * g["lr_multiplier"] for g in optimizer.param_groups]
    main: LRScheduler = cls(optimizer, **arguments)
    if warmup < 1 or isinstance(main, ReduceLROnPlateau):
        return main
    # From 1/warmup of the learning rate at the first step to all of it at step `warmup`.
    ramp = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [ramp, main], milestones=[warmup])


def follow_validation(trainer: Trainer) -> None:
    """Have schedules that watch validation each epoch wait for it, where not each is validated."""
    every = trainer.check_val_every_n_epoch or 1
    for config in trainer.lr_scheduler_configs:
        watches = config.reduce_on_plateau and str(config.monitor).startswith("val")
        if watches and config.interval == "epoch":
            config.frequency = math.lcm(config.frequency, every)


def num_steps(trainer: Trainer) -> int:
    """Count the optimizer steps of the whole run, also when accumulation changes by epoch.

    ``trainer.estimated_stepping_batches`` knows nothing of accumulation set by a callback.
    """
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        return trainer.max_steps
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if math.isinf(batches):  # a stream
        return trainer.max_steps
    schedulers = [c for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)]  # type: ignore[attr-defined]
    window = schedulers[0].get_accumulate_grad_batches if schedulers else None
    steps = sum(
        math.ceil(batches / (window(epoch) if window else trainer.accumulate_grad_batches))
        for epoch in range(trainer.max_epochs)
    )
    return min(steps, trainer.max_steps) if trainer.max_steps > 0 else steps


def _check_monitor(monitor: str, module: LightningModule) -> None:
    names = set(getattr(module, "monitorable", None) or {monitor})
    if not module.trainer.limit_val_batches:
        names = {name for name in names if not name.startswith("val/")}
    if monitor not in names:
        hint = suggest(monitor, names, True)
        raise ValueError(f"lr_scheduler.monitor: `{monitor}` is never logged. {hint}")


def _check_timing(settings: Settings) -> None:
    if settings.get("interval", "epoch") not in ("step", "epoch"):
        raise ValueError(
            f"lr_scheduler.interval: {settings['interval']!r} is neither `step` nor `epoch`."
        )
    for key, least in {"frequency": 1, "warmup_steps": 0}.items():
        count = settings.get(key)
        if count is not None and (not isinstance(count, int) or count < least):
            raise ValueError(f"lr_scheduler.{key}: {count!r} is no whole number >= {least}.")
    fraction = settings.get("warmup_fraction") or 0
    if not isinstance(fraction, (int, float)) or not 0 <= fraction < 1:
        raise ValueError(f"lr_scheduler.warmup_fraction: {fraction!r} is not in [0, 1).")
    if fraction and settings.get("warmup_steps"):
        raise ValueError("lr_scheduler: give `warmup_steps` or `warmup_fraction`, not both.")


def _default_interval(settings: Settings) -> str:
    name = str(settings["name"]).rpartition(".")[2]
    given = HORIZON.get(name, "") in settings and name != "OneCycleLR"
    return "step" if name in PER_STEP and not given else "epoch"


def _arguments(settings: Settings, own: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in own}


def _find_class(key: str, home: ModuleType, base: type, settings: Settings) -> Any:
    name = settings.get("name")
    named = {n: c for n, c in {**vars(home), **OWN}.items() if inspect.isclass(c)}
    choices = sorted(n for n, c in named.items() if issubclass(c, base) and c != base)
    if not isinstance(name, str):
        example = "AdamW" if base is Optimizer else "CosineAnnealingLR"
        raise ValueError(f"{key}.name: missing. Give one of {home.__name__}, such as {example}.")
    module, _, attribute = name.rpartition(".")
    if not module and name not in choices:
        raise ValueError(f"{key}.name: {home.__name__} has no `{name}`. {suggest(name, choices)}")
    try:
        cls = getattr(importlib.import_module(module), attribute) if module else named[name]
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{key}.name: cannot import `{name}` ({error}).") from None
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise ValueError(f"{key}.name: `{name}` is no {base.__name__}.")
    return cls


def _check_arguments(
    key: str, cls: type, arguments: Settings, own: tuple[str, ...], given: tuple[str, ...]
) -> None:
    parameters = inspect.signature(cls).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    choices = [*own, *(p for p in parameters if p not in given)]
    for name in arguments:
        if name not in choices:
            hint = suggest(name, choices)
            raise ValueError(f"{key}.{name}: {cls.__name__} has no such option. {hint}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in (*given, *arguments):
            raise ValueError(f"{key}.{name}: {cls.__name__} needs it.")
        value = arguments.get(name, 0.0)
        if isinstance(parameter.default, (int, float)) and not isinstance(value, (int, float)):
            raise ValueError(f"{key}.{name}: {value!r} is no number.")


def _try_optimizer(settings: Settings, device: torch.device | None = None) -> Optimizer:
    """Build the optimizer over a weight and a bias, in two groups, and take a step.

    Where no device is known yet, on the CPU, and without ``capturable``, which that has not.
    """
    cls = _find_class("optimizer", torch.optim, Optimizer, settings)
    left_out = () if device else ("capturable",)
    shapes = ((2, 2), (2,))
    parameters = [nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    # Any optimizer asks CUDA a few things: what fails here is no fault of the settings.
    torch.optim.Adam(parameters).step()
    try:
        groups = [{"params": [parameter]} for parameter in parameters]
        optimizer: Optimizer = cls(groups, **_arguments(settings, (*OPTIMIZER_KEYS, *left_out)))
        optimizer.step(lambda: 0.0)
    except REFUSALS as error:
        where = f" on {device.type}" if device else ""
        problem = f"{cls.__name__} refuses its settings{where}: {error}"
        raise ValueError(f"optimizer: {problem}") from None
    return optimizer
