"""Runs as they are listed: read however damaged they are, compared, and grouped by seeds."""

import csv
import json
import math
import os
import re
import statistics
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors.bad_input import InputError
from ..errors.checks import suggest
from . import safe_yaml, status, sweeps
from .files import read_json
from .find import FILES, exists, expand_home

NAMES_OF_A_RUN = {"runs_dir", "run_name", "resume"}
SEEDS = ("seed_everything", "data.seed")
COMPARED = ("model", "data", "seed_everything", "trainer.max_", "trainer.precision")
# What only names, shows or logs, and changes no result.
SHOWN = (
    *("trainer.logger", "trainer.default_root_dir", "trainer.log_every_n_steps"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.profiler"),
    *("callbacks.progress", "callbacks.plots", "callbacks.throughput", "callbacks.lr_monitor"),
    *("callbacks.image_summaries", "callbacks.gradient_norms"),
)


class ListedRun(NamedTuple):
    """A run: final metrics or those so far, settings by dotted names, and those that differ."""

    name: str
    folder: Path
    state: status.RunState
    metrics: dict[str, float]
    config: dict[str, Any]
    differs: dict[str, Any]

    @property
    def experiment(self) -> str:
        return self.name.partition("/")[0]


def find_runs(folder: Path) -> list[ListedRun]:
    """Read the runs in a folder of all runs, of an experiment or of one run, newest first.

    Those of sweeps are only in the folders of these.
    """
    folder = expand_home(folder)
    is_there = exists(folder) and folder.is_dir()
    places = [folder, *folder.glob("*"), *folder.glob("*/*")] if is_there else []
    found = [place for place in places if any(os.path.lexists(place / name) for name in FILES)]
    if not found and not (is_there and sweeps.find_sweeps(folder)):
        wrong = "holds no run" if is_there else "no such folder"
        raise InputError(f"DIR {folder}: {wrong}. Train first, or name the folder of runs.")
    runs = [_read_run(place) for place in (found[:1] if found[:1] == [folder] else found)]
    configs: dict[str, list[dict[str, Any]]] = {run.experiment: [] for run in runs}
    for run in runs:
        configs[run.experiment] += [run.config] if run.config else []
    keys = {experiment: _differing(several) for experiment, several in configs.items()}
    for run in runs:
        run.differs.update({k: run.config[k] for k in keys[run.experiment] if k in run.config})
    begun = {run.folder: run.state.since or status.changed(run.folder / FILES[0]) for run in runs}
    return sorted(runs, key=lambda run: (begun[run.folder], run.name), reverse=True)


def settings(folder: Path) -> dict[str, Any]:
    """Read the settings of a run that it is compared by, those that are not null."""
    config = _read_config(folder / FILES[0])
    return {k: v for k, v in config.items() if k.startswith(COMPARED) and v is not None}


def _read_run(folder: Path) -> ListedRun:
    path = folder.absolute().resolve()
    rows = [] if (found := read_json(folder / "metrics.json")) else _rows(folder / "metrics.csv")
    found = found or {name: value for row in rows for name, value in row.items() if name and value}
    metrics = {}
    for name, value in found.items():
        if not name.endswith("_step") and name not in ("step", "epoch"):
            with suppress(TypeError, ValueError, OverflowError):  # no number
                metrics[printable(name)] = float(value)
    name, config = printable(f"{path.parent.name}/{path.name}"), _read_config(folder / FILES[0])
    return ListedRun(name, folder, status.look(folder), metrics, config, {})


def _rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file, whose last line may be being written."""
    try:
        text = path.read_text("utf-8", "replace") if path.is_file() else ""  # no pipe
        return [*csv.DictReader(text.rpartition("\n")[0].split("\n"))]
    except (OSError, csv.Error):
        return []


def _read_config(path: Path) -> dict[str, Any]:
    """Flatten a config, with keys as they are on the command line and short names of classes."""
    try:
        content = safe_yaml.flatten(safe_yaml.read_mapping(path))
        flat = json.loads(json.dumps(content, default=str))
    except (RecursionError, TypeError, ValueError):
        return {}
    config = {}
    for key, value in flat.items():
        is_class = key.endswith("class_path") and isinstance(value, str)
        name = re.sub(r"(^|\.)(class_path|init_args)(?=\.|$)", "", key)
        config[printable(name)] = value.rpartition(".")[2] if is_class else value
    return {name: value for name, value in config.items() if name and name not in NAMES_OF_A_RUN}


def _differing(configs: list[dict[str, Any]]) -> list[str]:
    """Name the settings in which configs differ; of a part that some have not, it is enough."""
    found: list[str] = []
    for key in sorted({key for config in configs for key in config}):
        is_part = any(key.startswith(f"{whole}.") for whole in found)
        values = {text_of(c.get(key)) for c in configs if key in c or not is_part}
        found += [key] if len(values) > 1 else []
    return sorted(found, key=SEEDS.__contains__)


def group_seeds(runs: list[ListedRun]) -> list[dict[str, Any]]:
    """Summarize runs, newest first, that are done and differ in seeds, and what is shown, alone.

    Of several with one seed the newest counts. ``sd`` is of the sample, and None of one value.
    """
    found: dict[str, dict[str, ListedRun]] = {}
    for run in reversed(runs):
        if run.state.state == "done" and run.config:
            shared = _results_of(run.config)
            seeds = text_of([run.config.get(key) for key in SEEDS])
            found.setdefault(text_of([run.experiment, shared]), {})[seeds] = run
    return [_summary([*group.values()]) for group in [*found.values()][::-1] if len(group) > 1]


def _summary(runs: list[ListedRun]) -> dict[str, Any]:
    metrics = {}
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        found = [run.metrics.get(name, math.nan) for run in runs]
        if values := [value for value in found if math.isfinite(value)]:
            deviation = statistics.stdev(values) if len(values) > 1 else None
            metrics[name] = {"mean": statistics.fmean(values), "sd": deviation, "n": len(values)}
    config, names = _results_of(runs[0].differs), [run.name for run in runs]
    return {"experiment": runs[0].experiment, "config": config, "runs": names, "metrics": metrics}


def _results_of(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out seeds, and what changes no result."""
    shown = tuple(f"{name}." for name in (*SEEDS, *SHOWN))
    return {key: value for key, value in config.items() if not f"{key}.".startswith(shown)}


def sort(runs: list[ListedRun], given: str) -> list[ListedRun]:
    """Sort runs by a column, ``-NAME`` from the largest; without a value they come last."""
    name, columns = given.removeprefix("-"), []
    for run in runs:
        own = {"run": run.name, "state": run.state.state, "duration": run.state.seconds}
        columns.append(own | run.differs | run.metrics)
    if name not in (known := {name for row in columns for name in row}):
        raise InputError(f"--sort {given}: no such column. {suggest(name, known)}")
    values: list[Any] = [row.get(name) for row in columns]
    if not all(isinstance(value, (int, float, type(None))) for value in values):
        values = [None if value is None else text_of(value) for value in values]
    having = [n for n, value in enumerate(values) if value is not None and value == value]
    having.sort(key=lambda n: values[n], reverse=given != name)
    return [runs[n] for n in dict.fromkeys([*having, *range(len(runs))])]


def take_best(runs: list[ListedRun], sweep: sweeps.ListedSweep) -> None:
    """Give the runs of a sweep the values that it compares: of its metric, the best epoch's."""
    for run in runs:
        values = []
        for row in _rows(run.folder / "metrics.csv"):
            with suppress(TypeError, ValueError):  # none, or damaged
                values.append(float(row.get(sweep.metric)))  # type: ignore[arg-type]
        if values := [value for value in values if math.isfinite(value)]:
            run.metrics[printable(sweep.metric)] = (max if sweep.mode == "max" else min)(values)


def best_first(
    runs: list[ListedRun], groups: list[dict[str, Any]], sweep: sweeps.ListedSweep
) -> tuple[list[ListedRun], list[dict[str, Any]]]:
    """Sort the runs of a sweep, those that are done before others, and their groups."""
    name, sign = printable(sweep.metric), -1 if sweep.mode == "max" else 1

    def rank(value: float) -> float:
        return sign * value if math.isfinite(value) else math.inf

    def rank_of_run(run: ListedRun) -> tuple[bool, float, str]:
        return run.state.state != "done", rank(run.metrics.get(name, math.inf)), run.name

    def rank_of_group(group: dict[str, Any]) -> float:
        return rank(group["metrics"].get(name, {"mean": math.inf})["mean"])

    return sorted(runs, key=rank_of_run), sorted(groups, key=rank_of_group)


def text_of(value: Any) -> str:
    """Write a setting on one line: as JSON, texts without quotes."""
    return printable(value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def printable(text: str) -> str:
    """Replace what would steer a terminal, or what no terminal can show."""
    return "".join(c if c.isprintable() else "�" for c in text)
