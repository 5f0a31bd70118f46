"""Sweeps as they are listed: what is in their folders, read without Optuna and however damaged."""

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from . import safe_yaml
from .files import read_text

SWEEPS = "sweeps"  # folder of all of them, in that of all runs
PLAN, TRIALS, BEST = "sweep.yaml", "trials.csv", "best.yaml"


class ListedSweep(NamedTuple):
    """A sweep: how many trials are in each state, and the best one."""

    folder: Path
    states: dict[str, int]
    metric: str
    best: dict[str, str]  # the row of the best trial, empty where there is none

    @property
    def name(self) -> str:
        return self.folder.absolute().name

    def as_json(self) -> dict[str, Any]:
        """Return what is known as plain values."""
        best = {**self.best, "value": _value(self.best)} if self.best else None
        return {"sweep": self.name, **self._asdict(), "folder": str(self.folder), "best": best}


def find_sweeps(folder: Path) -> list[ListedSweep]:
    """Read the sweeps in a folder of all runs, of all sweeps, or of one, by name."""
    places = [folder, *folder.glob("*"), *folder.glob(f"{SWEEPS}/*")]
    found = {place.absolute(): place for place in places if (place / PLAN).is_file()}
    return sorted(map(read_sweep, found.values()), key=lambda sweep: sweep.name)


def read_sweep(folder: Path) -> ListedSweep:
    """Read how a sweep gets on, as far as it has been written."""
    rows, plan = read_trials(folder), _read_plan(folder / PLAN)
    sign = -1 if plan.get("mode") == "max" else 1
    done = [row for row in rows if row["state"] == "done" and math.isfinite(_value(row))]
    best = min(done, key=lambda row: sign * _value(row), default={})
    states = Counter(row["state"] for row in rows)
    return ListedSweep(folder, dict(states.most_common()), str(plan.get("metric") or ""), best)


def read_trials(folder: Path) -> list[dict[str, str]]:
    """Read the rows of ``trials.csv``, which is written whole; none where it is damaged."""
    try:
        rows = [*csv.DictReader(read_text(folder / TRIALS).splitlines(keepends=True))]
    except csv.Error:
        return []
    columns = ("trial", "state", "value", "run")
    return [row for row in rows if all(isinstance(row.get(name), str) for name in columns)]


def is_pruned(run: Path) -> bool:
    """Tell whether a run belongs to a trial of a sweep that was pruned."""
    folder = run.absolute().parent.parent
    if not (folder / PLAN).is_file():
        return False
    ticket = run.absolute().name.partition("-s")[0]
    return any(row["trial"] == ticket and row["state"] == "pruned" for row in read_trials(folder))


def experiment_of_best(config: Path) -> str | None:
    """Name the experiment of a sweep's ``best.yaml``; None: it is another file."""
    rows = read_trials(config.parent) if config.name == BEST else []
    return next((row["run"].partition("/")[0] for row in rows if row["run"]), None)


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        content = safe_yaml.load(read_text(path), safe_yaml.WithoutAliases)
    except (yaml.YAMLError, safe_yaml.ContentError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _value(row: dict[str, str]) -> float:
    try:
        return float(row["value"])
    except ValueError:
        return math.nan
