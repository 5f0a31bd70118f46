"""What is known of runs: found in a folder, read however damaged, and compared."""

import csv
import io
import json
import math
import os
import statistics
from collections.abc import Iterable
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


class Run(NamedTuple):
    """A run as it is listed.

    Args:
        name: Experiment and name.
        folder: Where it is.
        progress: How it gets on.
        metrics: Final values, or those so far.
        config: Settings by dotted names, without what only names the run.
        differs: Those in which the runs of its experiment differ.
    """

    name: str
    folder: Path
    progress: status.Progress
    metrics: dict[str, float]
    config: dict[str, Any]
    differs: dict[str, Any] = {}  # noqa: RUF012 - replaced, not changed

    @property
    def experiment(self) -> str:
        return self.name.partition("/")[0]


class Group(NamedTuple):
    """Runs that differ in their seeds alone.

    Args:
        experiment: Whose.
        config: In which settings they differ from others of it.
        runs: Their names.
        metrics: Mean, sample standard deviation (``sd``; None of one value) and number (``n``).
    """

    experiment: str
    config: dict[str, Any]
    runs: list[str]
    metrics: dict[str, dict[str, Any]]


def find_runs(folder: Path) -> list[Run]:
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
    return compared(sorted(runs, key=lambda run: (begun(run), run.name), reverse=True))


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds anything that a run writes."""
    return any(os.path.lexists(folder / name) for name in FILES)


def begun(run: Run) -> float:
    """Tell when a run was begun or last gone on with, Unix time."""
    return run.progress.since or status.changed(run.folder / "config.yaml")


def read_run(folder: Path) -> Run:
    """Read what can be read of a run, however damaged."""
    path = folder.absolute().resolve()
    metrics = read_json(folder / "metrics.json") or read_csv(folder / "metrics.csv")
    return Run(
        name=printable(f"{path.parent.name}/{path.name}"),
        folder=folder,
        progress=status.look(folder),
        metrics={printable(k): v for k, v in numbers(metrics).items() if not k.endswith("_step")},
        config=read_config(read_text(folder / "config.yaml") or ""),
    )


def read_csv(path: Path) -> dict[str, str]:
    """Read the last value of each metric; of a large file, from its end."""
    try:
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            header = file.readline(MOST_BYTES)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(len(header), size - MOST_BYTES))
            if file.tell() > len(header):
                file.readline()  # the rest of a row
            rows = file.read(MOST_BYTES)
    except OSError:
        return {}
    whole = header + rows[: rows.rfind(b"\n") + 1]  # a row may be being written
    lines = csv.reader(io.StringIO(whole.decode("utf-8", "replace"), newline=""))
    found: dict[str, str] = {}
    try:
        columns = next(lines, [])
        for row in lines:
            found |= {k: v for k, v in zip(columns, row, strict=False) if v}
    except csv.Error:
        pass  # what came before it counts
    return found


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Keep the values that are numbers."""
    found: dict[str, float] = {}
    for name, value in values.items():
        try:
            is_given = isinstance(value, (str, int, float)) and name not in ("step", "epoch")
            found |= {name: float(value)} if is_given else {}
        except (ValueError, OverflowError):
            continue
    return found


@cache
def read_config(text: str) -> dict[str, Any]:
    """Flatten a config, with keys as they are on the command line and short names of classes."""
    try:
        flat = safe_yaml.flatten(safe_yaml.load(text))
    except (yaml.YAMLError, safe_yaml.ContentError, RecursionError):
        return {}
    config = {}
    for key, value in flat.items():
        parts = [part for part in key.split(".") if part not in ("init_args", "class_path")]
        name = printable(".".join(parts))
        is_class = key.endswith("class_path") and isinstance(value, str)
        config[name] = value.rpartition(".")[2] if is_class else plain(value)
    return {name: value for name, value in config.items() if name and name not in NAMES_OF_A_RUN}


def plain(value: Any) -> Any:
    """Keep what JSON can hold of a setting."""
    try:
        return json.loads(json.dumps(value, default=str))
    except (TypeError, ValueError, RecursionError):  # a date as a key, a number too long to write
        return "�"


def compared(runs: list[Run]) -> list[Run]:
    """Find in which settings the runs of each experiment differ, seeds last."""
    configs: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        configs.setdefault(run.experiment, []).extend([run.config] if run.config else [])
    keys = {experiment: differing(several) for experiment, several in configs.items()}
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


def group_seeds(runs: Iterable[Run]) -> list[Group]:
    """Summarize runs that are done and differ in their seeds alone, where there are two or more.

    Of several with the same seed the newest counts.
    """
    found: dict[str, dict[str, Run]] = {}
    for run in sorted(runs, key=lambda run: (begun(run), run.name)):
        if run.progress.state == "done" and run.config:
            shared = {key: value for key, value in run.config.items() if key not in SEEDS}
            seeds = text_of([run.config.get(key) for key in sorted(SEEDS)])
            found.setdefault(text_of([run.experiment, shared]), {})[seeds] = run
    groups = [list(by_seed.values()) for by_seed in found.values() if len(by_seed) > 1]
    return [summarize(group) for group in reversed(groups)]


def summarize(runs: list[Run]) -> Group:
    """Summarize each metric of runs, where it is a number."""
    metrics = {}
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        found = [run.metrics.get(name, math.nan) for run in runs]
        values = [value for value in found if math.isfinite(value)]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else None
            metrics[name] = {"mean": statistics.fmean(values), "sd": deviation, "n": len(values)}
    config = {key: value for key, value in runs[0].differs.items() if key not in SEEDS}
    return Group(runs[0].experiment, config, [run.name for run in runs], metrics)


def text_of(value: Any) -> str:
    """Write a setting on one line: as JSON, texts without quotes."""
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return printable(text)


def printable(text: str) -> str:
    """Replace what would steer a terminal, or what no terminal can show."""
    return "".join(c if c.isprintable() else "�" for c in text)
