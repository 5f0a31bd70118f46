"""The plan of a sweep: what is searched, and how."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml
from jsonargparse import get_loader

from ..runs.safe_yaml import flatten
from .space import Space, text, tokens

MAY_CHANGE = ("sampler", "pruner", "num_trials", "max_time")  # when a sweep is resumed
IS_GRID = {True: "grid, whose trials are its points", False: "one that draws its trials"}


@dataclass(frozen=True)
class Sweep:
    """What is to be searched, and how.

    Attributes:
        name: Name of the sweep's folder.
        config: What ``--config`` is given, in order.
        options: Further options of each run, as on the command line.
        metric: What is minimized or maximized; None: what the experiment's checkpoint monitors.
        mode: ``min`` or ``max``; None: that of the checkpoint.
        space: Options of the experiment and the values that each may take.
        sampler: ``grid``, or a class of ``optuna.samplers``, made with ``sampler_args``.
        pruner: None, or a class of ``optuna.pruners``, made with ``pruner_args``.
        num_trials: Trials, of a grid its points; None: until ``max_time_s``.
        max_time_s: Seconds after which no trial begins; None: without a limit.
        seeds: Runs of each point, whose mean is its value.
        seed: Of the sampler.
    """

    name: str
    config: tuple[str, ...]
    options: tuple[str, ...]
    metric: str | None
    mode: str | None
    space: Space
    sampler: str
    sampler_args: dict[str, Any]
    pruner: str | None
    pruner_args: dict[str, Any]
    num_trials: int | None
    max_time_s: float | None
    seeds: int
    seed: int


class Probed(NamedTuple):
    """What an experiment says of itself.

    Attributes:
        metric: What is searched for: the sweep's, or what the experiment's checkpoint monitors.
        mode: ``min`` or ``max``.
        num_gpus: GPUs to be dealt out to runs; 0 where the experiment uses none.
        experiment: Name of the experiment, and so of the folder that its runs are in.
        seed: The experiment's ``seed_everything``.
    """

    metric: str
    mode: str
    num_gpus: int
    experiment: str
    seed: int


def args_of(sweep: Sweep, point: Mapping[str, Any]) -> list[str]:
    """List the arguments of ``train`` for a point, without folder, name and seed of the run."""
    configs = [token for name in sweep.config for token in ("--config", name)]
    return [*configs, *sweep.options, *tokens(point)]


def identity(sweep: Sweep) -> dict[str, str]:
    """Return what must not change when a sweep is resumed: settings by their dotted names."""
    kept = {name: value for name, value in _content(sweep).items() if name not in MAY_CHANGE}
    kept["sampler"] = IS_GRID[sweep.sampler == "grid"]
    return {name: text(_value(text(value))) for name, value in flatten(kept).items()}


def as_yaml(sweep: Sweep) -> str:
    """Write a sweep as a file that it can be read from again."""
    written: str = yaml.safe_dump(
        _content(sweep), default_flow_style=None, width=100, sort_keys=False, allow_unicode=True
    )
    return written


def _content(sweep: Sweep) -> dict[str, Any]:
    """Return what a person would write in the file of a sweep."""
    content = dict(vars(sweep))
    del content["name"]
    content["config"] = sweep.config[0] if len(sweep.config) == 1 else [*sweep.config]
    given = (token.removeprefix("--").partition("=") for token in sweep.options)
    content["options"] = {name: _exact(value) for name, _, value in given}
    content["space"] = {name: parameter.written() for name, parameter in sweep.space.items()}
    for kind in ("sampler", "pruner"):
        if arguments := content.pop(f"{kind}_args"):
            content[kind] = {"name": content[kind], **arguments}
    if seconds := int(content.pop("max_time_s") or 0):
        parts = (seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60, seconds % 60)
        content["max_time"] = ":".join(f"{part:02}" for part in parts)
    return {name: value for name, value in content.items() if value not in (None, [], {})}


def _exact(written: str) -> Any:
    """Return the value of an option as YAML, or its text where that would be another."""
    value = _value(written)
    return value if text(value) == written else written


def _value(written: str) -> Any:
    """Read the value of an option as its parser does; what is no YAML is text."""
    try:
        return get_loader("yaml")(written)
    except (yaml.YAMLError, ValueError):
        return written


def describe(point: Mapping[str, Any]) -> str:
    """Write a point for a person: ``model.optimizer.lr=0.003, ...``."""
    written = {n: f"{v:.4g}" if isinstance(v, float) else text(v) for n, v in point.items()}
    return ", ".join(f"{name}={value}" for name, value in written.items())
