"""Runs as they are listed: read however damaged they are, compared, and grouped by seeds."""

import csv
import json
import math
import os
import statistics
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors.bad_input import InputError
from . import safe_yaml, status
from .files import MOST_BYTES, read_json, read_text
from .find import FILES, exists, expand_home

NAMES_OF_A_RUN = {"runs_dir", "run_name", "resume"}
SEEDS = {"seed_everything", "data.seed"}


class ListedRun(NamedTuple):
    """A run: final metrics or those so far, settings by dotted names, and those that differ."""

    name: str
    folder: Path
    state: status.RunState
    metrics: dict[str, float]
    config: dict[str, Any]
    differs: dict[str, Any] = {}  # noqa: RUF012 - replaced, not changed

    @property
    def experiment(self) -> str:
        return self.name.partition("/")[0]


def find_runs(folder: Path) -> list[ListedRun]:
    """Read the runs in a folder of all runs, of an experiment or of one run, newest first.

    Raises:
        InputError: There is none.
    """
    folder = expand_home(folder)
    if not exists(folder) or not folder.is_dir():
        raise InputError(f"DIR {folder}: no such folder. Train first, or name the folder of runs.")
    places = [folder] if is_run(folder) else [*folder.glob("*"), *folder.glob("*/*")]
    runs = [read_run(place) for place in places if is_run(place)]
    if not runs:
        raise InputError(f"DIR {folder}: holds no run. Train first, or name the folder of runs.")
    return compared(sorted(runs, key=age, reverse=True))


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds anything that a run writes."""
    return any(os.path.lexists(folder / name) for name in FILES)


def age(run: ListedRun) -> tuple[float, str]:
    """Order runs by when they were begun or last resumed."""
    return run.state.since or status.changed(run.folder / "config.yaml"), run.name


def read_run(folder: Path) -> ListedRun:
    """Read what can be read of a run."""
    path = folder.absolute().resolve()
    found = read_json(folder / "metrics.json") or last_values(folder / "metrics.csv")
    metrics = {}
    for name, value in found.items():
        is_twice = name.endswith("_epoch") and name.removesuffix("_epoch") in found
        if not (is_twice or name.endswith("_step") or name in ("step", "epoch")):
            with suppress(TypeError, ValueError, OverflowError):  # no number
                metrics[printable(name)] = float(value)
    name, config = printable(f"{path.parent.name}/{path.name}"), read_text(folder / "config.yaml")
    return ListedRun(name, folder, status.look(folder), metrics, read_config(config))


def last_values(path: Path) -> dict[str, str]:
    """Read the last value in each column of a CSV file; of a large one, from its end."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return {}
        with path.open("rb") as file:
            header = file.readline(MOST_BYTES)
            file.seek(max(len(header), path.stat().st_size - MOST_BYTES) - 1)
            rows = file.read(MOST_BYTES).split(b"\n")[1:-1]  # without parts of one
        columns = next(csv.reader([header.decode("utf-8", "replace")]), [])
    except (OSError, csv.Error):
        return {}
    values = (row.decode("utf-8", "replace").strip().split(",") for row in rows)
    return {k: v for row in values for k, v in zip(columns, row, strict=False) if v}


@cache
def read_config(text: str) -> dict[str, Any]:
    """Flatten a config, with keys as they are on the command line and short names of classes."""
    try:
        flat = safe_yaml.flatten(safe_yaml.load(text, safe_yaml.WithoutAliases))
    except (yaml.YAMLError, safe_yaml.ContentError, RecursionError):
        return {}
    config = {}
    for key, value in flat.items():
        parts = [part for part in key.split(".") if part not in ("init_args", "class_path")]
        is_class = key.endswith("class_path") and isinstance(value, str)
        config[printable(".".join(parts))] = value.rpartition(".")[2] if is_class else plain(value)
    return {name: value for name, value in config.items() if name and name not in NAMES_OF_A_RUN}


def plain(value: Any) -> Any:
    """Keep what JSON can hold of a setting."""
    try:
        return json.loads(json.dumps(value, default=str))
    except (TypeError, ValueError):  # a date as a key, a number too long to write
        return "�"


def compared(runs: list[ListedRun]) -> list[ListedRun]:
    """Find in which settings the runs of each experiment differ."""
    configs: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        configs.setdefault(run.experiment, []).append(run.config)
    keys = {experiment: differing([*filter(None, c)]) for experiment, c in configs.items()}
    return [
        run._replace(differs={k: run.config[k] for k in keys[run.experiment] if k in run.config})
        for run in runs
    ]


def differing(configs: list[dict[str, Any]]) -> list[str]:
    """Name the settings in which configs differ; of a part that some have not, it is enough."""
    found: list[str] = []
    order = list(dict.fromkeys(key for config in configs for key in config))
    for key in sorted(order):
        values = {text_of(config[key]) for config in configs if key in config}
        is_part = any(key.startswith(f"{whole}.") for whole in found)
        is_missing = not is_part and any(key not in config for config in configs)
        found += [key] if len(values) + is_missing > 1 else []
    return sorted(found, key=lambda key: (key in SEEDS, order.index(key)))


def group_seeds(runs: Iterable[ListedRun]) -> list[dict[str, Any]]:
    """Summarize runs that are done and differ in their seeds alone, where there are two or more.

    Of several with the same seed the newest counts. Each metric has its mean, sample standard
    deviation (``sd``; None of one value) and number (``n``).
    """
    found: dict[str, dict[str, ListedRun]] = {}
    for run in sorted(runs, key=age):
        if run.state.state == "done" and run.config:
            shared = {key: value for key, value in run.config.items() if key not in SEEDS}
            seeds = text_of([run.config.get(key) for key in sorted(SEEDS)])
            found.setdefault(text_of([run.experiment, shared]), {})[seeds] = run
    return [summary([*group.values()]) for group in [*found.values()][::-1] if len(group) > 1]


def summary(runs: list[ListedRun]) -> dict[str, Any]:
    """Summarize runs that differ in their seeds alone."""
    metrics = {}
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        found = [run.metrics.get(name, math.nan) for run in runs]
        if values := [value for value in found if math.isfinite(value)]:
            deviation = statistics.stdev(values) if len(values) > 1 else None
            metrics[name] = {"mean": statistics.fmean(values), "sd": deviation, "n": len(values)}
    config = {key: value for key, value in runs[0].differs.items() if key not in SEEDS}
    names = [run.name for run in runs]
    return {"experiment": runs[0].experiment, "config": config, "runs": names, "metrics": metrics}


def text_of(value: Any) -> str:
    """Write a setting on one line: as JSON, texts without quotes."""
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return printable(value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def printable(text: str) -> str:
    """Replace what would steer a terminal, or what no terminal can show."""
    return "".join(c if c.isprintable() else "�" for c in text)
