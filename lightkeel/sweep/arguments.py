"""What a sweep is asked for, by its file and on the command line, checked by itself."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from ..errors.bad_input import InputError
from ..errors.checks import suggest
from ..options.configs import resolve_configs
from ..options.names import check_options
from ..project import current
from ..runs import safe_yaml
from ..runs.find import exists
from ..runs.sweeps import SWEEPS
from . import space as spaces
from .plan import Sweep, args_of

# Options of a run that a sweep sets itself, or that would make runs of one point differ in kind.
OWN = {
    "config": "Put it under `config`",
    "trainer.fast_dev_run": "Runs are to write what is searched for; see trainer.max_epochs",
    "resume": "A sweep resumes by itself",
    "run_name": "A sweep names its runs",
    "runs_dir": "Give --runs_dir to the sweep",
}
SEEDED = {"seed_everything": "Give `seeds`, the number of seeds that each point is trained with"}
# Samplers and pruners by short names; any other name is that of a class of Optuna.
SAMPLERS = {"grid": "grid", "random": "RandomSampler", "tpe": "TPESampler"}
PRUNERS = {"median": "MedianPruner", "hyperband": "HyperbandPruner"}
KEYS = (
    *("config", "options", "metric", "mode", "space", "sampler", "pruner"),
    *("num_trials", "max_time", "seeds", "seed"),
)
ONE_SPACE = "A sweep has one space: leave either out."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a sweep is told what to search."""
    add = parser.add_argument
    add("sweep", metavar="SWEEP", nargs="?", help="a file, or its name: sweeps/NAME in configs")
    config = "of the experiment, may be repeated; laid over that of SWEEP"
    add("--config", "-c", metavar="NAME", action="append", default=[], help=config)
    grid = "in place of SWEEP: an option and its values; may be repeated"
    add("--grid", metavar="KEY=[...]", action="append", default=[], help=grid)
    add("--metric", help="what is best (default: what the experiment's checkpoint monitors)")
    add("--mode", choices=("min", "max"), help="(default: that of the checkpoint)")
    add("--num_trials", metavar="N", help="of a grid: its size, not to be given")
    add("--max_time", metavar="DD:HH:MM:SS", help="after which no trial begins")
    add("--seeds", metavar="N", help="runs of each point, the mean of which counts (default: 1)")
    add("--seed", metavar="N", help="of the sampler (default: 0)")
    add("--sampler", metavar="NAME", help="grid, random, tpe (default), or a class of Optuna")
    add("--pruner", metavar="NAME", help="median, hyperband, or a class of Optuna (default: none)")
    add("--name", help="of the sweep's folder (default: that of SWEEP)")


def split(
    parser: argparse.ArgumentParser, given: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Part a command line into what is the sweep's, and the options that each run is to have."""
    own, passed = list[str](), dict[str, str]()
    known = {name for action in parser._actions for name in action.option_strings}
    rest = [*given]
    while rest:
        token = rest.pop(0)
        option, equals, value = token.partition("=")
        following = [rest.pop(0)] if not equals and option.startswith("-") and rest else []
        if option in known or not option.startswith("--"):
            own += [token, *following]
            continue
        name, value = option.removeprefix("--"), following[0] if following else value
        if name in passed:
            raise InputError(f"{option}: is given twice, first as {passed[name]}. Give it once.")
        if not equals and (not following or value.startswith("--")):
            raise InputError(f"{option}: has no value. Give one, as in {option} 1.")
        passed[name] = value
    return own, passed


def read_sweep(options: argparse.Namespace, passed: Mapping[str, str]) -> Sweep:
    """Read a sweep from its file and the command line, which wins.

    Args:
        options: The sweep's own, parsed.
        passed: Options that each run is to have, and their values as on the command line.

    Raises:
        InputError: What can be known to fail without the parser of the experiment's options.
    """
    content: dict[str, Any] = {}
    if options.sweep is not None:
        content = _read_file(options.sweep)
        if options.grid:
            raise InputError(f"--grid {options.grid[0]}: with SWEEP {options.sweep}. {ONE_SPACE}")
        if "space" not in content:
            raise InputError(f"space: missing in {options.sweep}. Give `{spaces.EXAMPLE}`.")
    else:
        content = {"space": _grid(options.grid), "sampler": "grid"}
        if not options.grid and options.seeds is None:
            raise InputError(
                f"SWEEP: missing. {suggest('', sweep_names(), True)}\n"
                "Or give --grid KEY=[...], or --seeds N, with the --config of an experiment."
            )
    given = {key: getattr(options, key) for key in KEYS if hasattr(options, key)}
    given = {key: value for key, value in given.items() if value is not None and key != "config"}
    content |= {key: _plain(key, value) for key, value in given.items()}
    config = (*_texts("config", content.get("config") or []), *options.config)
    fixed = content.get("options") or {}
    if not isinstance(fixed, dict):
        raise InputError(f"options: {fixed!r} is no mapping. Give option: value.")
    made = Sweep(
        name=_name(options, config, content["space"]),
        config=config,
        options=tuple(spaces.tokens({**{str(name): fixed[name] for name in fixed}, **passed})),
        metric=_text("metric", content.get("metric")),
        mode=_choice("mode", content.get("mode"), ("min", "max")),
        space=spaces.read_space(content["space"]),
        **_engine(content, "sampler", "tpe", SAMPLERS),
        **_engine(content, "pruner", None, PRUNERS),
        num_trials=_whole("num_trials", content.get("num_trials"), 1),
        max_time_s=_seconds(content.get("max_time")),
        seeds=_whole("seeds", content.get("seeds", 1), 1) or 1,
        seed=_whole("seed", content.get("seed", 0), 0) or 0,
    )
    check(made)
    return made


def check(sweep: Sweep) -> None:
    """Raise ``InputError`` for parts of a plan that do not fit each other, or no option at all."""
    fixed = {token.partition("=")[0].removeprefix("--") for token in sweep.options}
    for name in [*sweep.space, *sorted(fixed)]:
        key = "space" if name in sweep.space else "options"
        taken = OWN | (SEEDED if key == "space" else {})
        if name in taken:
            raise InputError(f"{key}.{name}: is not for a sweep to vary or to set. {taken[name]}.")
        if key == "space" and name in fixed:
            raise InputError(f"space.{name}: is given as an option too. Leave either out.")
    if sweep.sampler == "grid":
        spaces.points(sweep.space)
        if sweep.num_trials is not None:
            how = "Leave it out, or use another sampler."
            raise InputError(f"num_trials: {sweep.num_trials}, but a grid has its own. {how}")
    elif not sweep.space:
        raise InputError(f"space: empty. Give options, as in `{spaces.EXAMPLE}`.")
    elif sweep.num_trials is None and sweep.max_time_s is None:
        raise InputError("num_trials: missing. Give it, or max_time, as in 00:01:00:00 (an hour).")
    check_options(args_of(sweep, {}), [*KEYS, "grid", "name", "workers"])
    for point in spaces.each_value(sweep.space):
        check_options(args_of(sweep, point))


def find_sweep(name: str) -> Path:
    """Find a sweep file: a path, or a name in ``configs`` or ``configs/sweeps``."""
    configs = current().configs
    places = (configs / f"{name}.yaml", configs / name, configs / SWEEPS / f"{name}.yaml")
    for path in (Path(name), *places):
        if exists(path) and path.is_file():
            return path
    raise InputError(f"SWEEP {name}: no such file. {suggest(name, sweep_names(), True)}")


def sweep_names() -> list[str]:
    """List the project's sweep files by the names that a command line gives them."""
    return sorted(f"{SWEEPS}/{path.stem}" for path in current().configs.glob(f"{SWEEPS}/*.yaml"))


def _read_file(name: str) -> dict[str, Any]:
    path = find_sweep(name)
    try:
        content = _yaml(f"SWEEP {path}", path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"SWEEP {path}: cannot be read ({why}).") from None
    if not isinstance(content, dict):
        raise InputError(f"SWEEP {path}: holds no settings. Begin with `space:`, for example.")
    for key in [key for key in content if key not in KEYS]:
        hint = suggest(str(key), KEYS)
        if key in ("model", "data", "trainer", "callbacks"):
            hint = f"This is an experiment: name it in `config`, or put {key} under `options`."
        raise InputError(f"{key}: a sweep file has no such setting. {hint}")
    return content


def _grid(given: Sequence[str]) -> dict[str, Any]:
    """Read each ``--grid KEY=[...]``."""
    example = "Give an option and its values, as in --grid model.optimizer.lr=[0.001,0.01]"
    space: dict[str, Any] = {}
    for name, equals, value in (text.partition("=") for text in given):
        values = _yaml(f"--grid {name}", value) if name and equals else None
        if not isinstance(values, list):
            raise InputError(f"--grid {name}: {value or 'it'} is no list. {example}")
        if name in space:
            raise InputError(f"--grid {name}: is given twice. Give all its values at once.")
        space[name] = values
    return space


def _yaml(key: str, value: str) -> Any:
    """Read YAML as the parser of options does, to which 1e-4 is a number."""
    try:
        safe_yaml.check(value)
        return get_loader("yaml")(value)
    except (yaml.YAMLError, safe_yaml.ContentError) as error:
        mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{key}: is no valid YAML{where}: {problem or error}.") from None


def _plain(key: str, value: Any) -> Any:
    """Read the value of an option of the command line as a sweep file would have it."""
    is_text = key in ("metric", "mode", "max_time") or not isinstance(value, str)
    return value if is_text else _yaml(f"--{key}", value)


def _engine(
    content: dict[str, Any], key: str, default: str | None, short: dict[str, str]
) -> dict[str, Any]:
    """Read a sampler or a pruner: its name, or a mapping of ``name`` and arguments."""
    given = content.get(key, default)
    arguments = dict(given) if isinstance(given, dict) else {"name": given}
    name = arguments.pop("name", None)
    if not isinstance(name, str) and (name is not None or arguments or key == "sampler"):
        choices = suggest("", short, True)
        raise InputError(f"{key}: {given!r} has no name. {choices} Or a class of Optuna.")
    if key == "sampler" and name == "grid" and arguments:
        raise InputError(f"sampler.{min(arguments)}: a grid takes no arguments. Leave it out.")
    return {key: None if name is None else short.get(name, name), f"{key}_args": arguments}


def _name(options: argparse.Namespace, config: Sequence[str], space: Any) -> str:
    name = options.name
    if name is None and options.sweep is not None:
        name = find_sweep(options.sweep).stem
    elif name is None:
        arguments = [token for value in config for token in ("--config", value)]
        leaves = [name.rpartition(".")[2] for name in space] or ["seeds"]
        name = "-".join([resolve_configs(arguments)[1], *leaves])
    if name in ("", ".", "..") or {*name} & {"/", "\0"}:
        raise InputError(f"--name {name!r}: is not the name of a folder.")
    return str(name)


def _texts(key: str, value: Any) -> list[str]:
    found = value if isinstance(value, list) else [value]
    return [_text(key, part) or "" for part in found]


def _text(key: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise InputError(f"{key}: {value!r} is no name. Give one.")
    return value


def _choice(key: str, value: Any, choices: Sequence[str]) -> str | None:
    if value is not None and value not in choices:
        raise InputError(f"{key}: {value!r} is no choice. {suggest(str(value), choices, True)}")
    return None if value is None else str(value)


def _whole(key: str, value: Any, least: int) -> int | None:
    if value is not None and (type(value) is not int or value < least):
        raise InputError(f"{key}: {value!r} is no whole number of at least {least}. Give one.")
    return value


def _seconds(value: Any) -> float | None:
    """Read a time as Lightning's ``Timer`` does."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", value) if isinstance(value, str) else None
    if not found:
        form = 'Give days, hours, minutes and seconds in quotes, as in "00:01:00:00" (an hour).'
        raise InputError(f"max_time: {value!r} is no time. {form}")
    seconds = sum(int(n) * s for n, s in zip(found.groups(), (86400, 3600, 60, 1), strict=True))
    if not seconds:
        raise InputError(f"max_time: {value} is no time. Give at least a second.")
    return float(seconds)
