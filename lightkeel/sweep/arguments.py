"""What a sweep is asked for, by its file and on the command line, checked by itself."""

import argparse
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import yaml
from jsonargparse import get_loader

from ..errors.bad_input import Arguments, InputError
from ..errors.checks import suggest
from ..options.configs import resolve_configs
from ..options.names import check_options
from ..runs import safe_yaml
from ..runs.files import read_text
from ..runs.find import find_config
from .plan import Sweep, args_of
from .space import each_value, mapping, points, read_space, tokens

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
SHORT = {
    "grid": "grid",
    "random": "RandomSampler",
    "tpe": "TPESampler",
    "median": "MedianPruner",
    "hyperband": "HyperbandPruner",
}
# Settings of a sweep file that are options of the command line too.
SETTINGS = ("metric", "mode", "sampler", "pruner", "num_trials", "max_time", "seeds", "seed")
KEYS = ("config", "options", "space", *SETTINGS)
OPTIONS = (*KEYS, "grid", "name", "workers")  # of the command, to be suggested
EXPERIMENT = {"model", "data", "trainer", "callbacks"}  # settings of another file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a sweep is told what to search."""
    add = parser.add_argument
    sweep = "a sweep file: a path, or a name in configs, such as sweeps/cifar10"
    add("sweep", metavar="SWEEP", nargs="?", help=sweep)
    config = "experiment to train, or an overlay; may be repeated; laid over `config` of SWEEP"
    add("--config", "-c", metavar="NAME", action="append", default=[], help=config)
    grid = "without SWEEP: an option of the experiment and the values to try; may be repeated"
    add("--grid", metavar="KEY=[...]", action="append", default=[], help=grid)
    metric = "metric to search for the best value of (default: what the checkpoint monitors)"
    add("--metric", metavar="NAME", help=metric)
    mode = "whether less or more of it is better (default: as the checkpoint has it)"
    add("--mode", choices=("min", "max"), help=mode)
    trials = "trials in all, unless the sampler is grid (default: as many as --max_time allows)"
    add("--num_trials", metavar="N", type=partial(_whole, "num_trials", 1), help=trials)
    time = "time after which this command begins no further trial (default: none)"
    add("--max_time", metavar="DD:HH:MM:SS", type=_seconds, help=time)
    seeds = "train each trial with N seeds and take the mean of their values (default: 1)"
    add("--seeds", metavar="N", type=partial(_whole, "seeds", 1), help=seeds)
    seed = "seed of the sampler, not of the runs (default: 0)"
    add("--seed", metavar="N", type=partial(_whole, "seed", 0), help=seed)
    sampler = "what chooses the settings of a trial: grid, random, tpe, or a class of Optuna"
    default = "(default: tpe; without SWEEP: grid)"
    add("--sampler", metavar="NAME", type=partial(_engine, "sampler"), help=f"{sampler} {default}")
    pruner = "what ends poor trials early: median, hyperband, or a class of Optuna (default: none)"
    add("--pruner", metavar="NAME", type=partial(_engine, "pruner"), help=pruner)
    name = "name of the sweep's folder (default: that of SWEEP; else EXPERIMENT-OPTION)"
    add("--name", help=name)


def split(parser: Arguments, given: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Part a command line into what is the sweep's, and the options that each run is to have."""
    own, passed, rest = list[str](), dict[str, str](), [*given]
    known = parser.option_strings()
    while rest:
        token = rest.pop(0)
        option, equals, value = token.partition("=")
        takes = not equals and option.startswith("-") and rest and not rest[0].startswith("--")
        following = [rest.pop(0)] if takes else []
        if option in known or not option.startswith("--"):
            own += [token, *following]
        else:
            passed[option.removeprefix("--")] = following[0] if following else value
    return own, passed


def read_sweep(options: argparse.Namespace, passed: Mapping[str, str]) -> Sweep:
    """Read a sweep from its file and the command line, which wins.

    Args:
        options: The sweep's own, parsed.
        passed: Options that each run is to have, and their values as on the command line.

    Raises:
        InputError: What can be known to fail without the parser of the experiment's options.
    """
    if options.sweep is not None and options.grid:
        only_one = f"with SWEEP {options.sweep}. Leave either out; what has spaces needs quotes."
        raise InputError(f"--grid {options.grid[0]}: {only_one}")
    if options.sweep is None and not options.grid and options.seeds is None:
        check_options(tokens(passed), OPTIONS)
        given = "Give one, as sweeps/NAME, or --grid KEY=[...], or --seeds N."
        raise InputError(f"SWEEP: missing. {given}")
    content: dict[str, Any] = {"space": _grid(options.grid), "sampler": "grid"}
    if options.sweep is not None:
        content = _read_file(options.sweep)
    parser = Arguments(prog="sweep")
    add_arguments(parser)
    settings = {key: content[key] for key in SETTINGS if content.get(key) is not None}
    found = vars(parser.parse_args(tokens(settings)))
    found |= {key: value for key, value in vars(options).items() if value is not None}
    config = content.get("config") or []
    config = (*map(str, config if isinstance(config, list) else [config]), *options.config)
    fixed = mapping("options", content.get("options") or {})
    sampler, sampler_args = found["sampler"] or (SHORT["tpe"], {})
    pruner, pruner_args = found["pruner"] or (None, {})
    made = Sweep(
        name=_name(options, config, content.get("space") or {}),
        config=config,
        options=tuple(tokens({**{str(name): fixed[name] for name in fixed}, **passed})),
        metric=found["metric"],
        mode=found["mode"],
        space=read_space(content.get("space") or {}),
        sampler=sampler,
        sampler_args=sampler_args,
        pruner=pruner,
        pruner_args=pruner_args,
        num_trials=found["num_trials"],
        max_time_s=found["max_time"],
        seeds=found["seeds"] or 1,
        seed=found["seed"] or 0,
    )
    check(made)
    return made


def check(sweep: Sweep) -> None:
    """Raise ``InputError`` for parts of a plan that do not fit each other, or no option at all."""
    fixed = {token.partition("=")[0].removeprefix("--") for token in sweep.options}
    for key, names, taken in (("options", fixed, OWN), ("space", sweep.space, OWN | SEEDED)):
        for name in sorted(taken.keys() & names):
            raise InputError(f"{key}.{name}: is not for a sweep to vary or to set. {taken[name]}.")
    for name in [*fixed, *sweep.space]:  # one name for each option, to be compared by
        short = re.sub(r"\.(init_args|class_path)(?=\.|$)", "", name)
        if short != name:
            raise InputError(f"{name}: is written {short} in a sweep.")
    for name in sorted(fixed & sweep.space.keys()):
        raise InputError(f"space.{name}: is given as an option too. Leave either out.")
    if sweep.sampler == "grid":
        points(sweep.space)
        if sweep.num_trials is not None or sweep.sampler_args:
            how = "Leave num_trials and arguments out, or use another sampler."
            raise InputError(f"sampler: a grid's trials are its points. {how}")
    elif not sweep.space:
        raise InputError("space: empty. Give options, or sampler grid.")
    elif sweep.num_trials is None and sweep.max_time_s is None:
        grid = ", or sampler: grid" if all(made.values for made in sweep.space.values()) else ""
        how = f"Give it, or max_time, as in 00:01:00:00 (an hour){grid}."
        raise InputError(f"num_trials: missing. {how}")
    for point in ({}, *each_value(sweep.space)):
        check_options(args_of(sweep, point), OPTIONS)


def _read_file(name: str) -> dict[str, Any]:
    path = find_config(name, "SWEEP")
    content = mapping(f"SWEEP {path}", _yaml(f"SWEEP {path}", read_text(path)))
    unknown = [str(key) for key in content if key not in KEYS]
    if EXPERIMENT & {*unknown} and "space" not in content:
        how = f"Give --config {name} --grid OPTION=[...], or a sweep file."
        raise InputError(f"SWEEP {name}: is the config of an experiment. {how}")
    if unknown:
        named = "Name an experiment in `config`."
        hints = dict.fromkeys(named if k in EXPERIMENT else suggest(k, KEYS) for k in unknown)
        what = "a sweep file has no such setting."
        raise InputError(f"{', '.join(unknown)}: {what} {' '.join(hints)}")
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


def _engine(key: str, value: str) -> tuple[str | None, dict[str, Any]]:
    """Read a sampler or a pruner: its name, or a mapping of ``name`` and arguments."""
    given = _yaml(key, value)
    arguments = dict(given) if isinstance(given, dict) else {"name": given}
    name = arguments.pop("name", None)
    if given is not None and not isinstance(name, str):
        raise InputError(f"{key}: {value} has no name. Give that of a class of Optuna.")
    return SHORT.get(name, name), arguments


def _name(options: argparse.Namespace, config: Sequence[str], space: Mapping[str, Any]) -> str:
    name = options.name
    if name is None and options.sweep is not None:
        name = find_config(options.sweep, "SWEEP").stem
    elif name is None:
        arguments = [token for value in config for token in ("--config", value)]
        leaves = [name.rpartition(".")[2] for name in space] or ["seeds"]
        name = "-".join([resolve_configs(arguments)[1], *leaves])
    if name in ("", ".", "..") or {*name} & {"/", "\0"}:
        raise InputError(f"--name {name!r}: is not the name of a folder.")
    return str(name)


def _whole(key: str, least: int, value: str) -> int:
    if not value.isdecimal() or int(value) < least:
        raise InputError(f"{key}: {value} is no whole number of at least {least}. Give one.")
    return int(value)


def _seconds(value: str) -> float:
    """Read a time as Lightning's ``Timer`` does."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", value)
    days, hours, minutes, seconds = map(float, found.groups() if found else (0, 0, 0, 0))
    if not days + hours + minutes + seconds:
        form = 'Give days, hours, minutes and seconds in quotes, as in "00:01:00:00" (an hour).'
        raise InputError(f"max_time: {value} is no time. {form}")
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
