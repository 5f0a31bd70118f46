"""Sweeps as they are listed: what is in their folders, read without Optuna and however damaged."""

import csv
import math
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .files import read_text
from .safe_yaml import read_mapping

SWEEPS = "sweeps"  # folder of all of them, in that of all runs
PLAN, TRIALS, BEST = "sweep.yaml", "trials.csv", "best.yaml"


class ListedSweep(NamedTuple):
    """A sweep: how many trials are in each state, what is searched for, and the best one."""

    folder: Path
    states: dict[str, int]
    metric: str
    mode: str  # "min" or "max"
    best: dict[str, Any]  # the row of the best trial, empty where there is none

    @property
    def name(self) -> str:
        return self.folder.absolute().name

    def as_json(self) -> dict[str, Any]:
        """Return what is known as plain values."""
        own = {"sweep": self.name, "folder": str(self.folder), "best": self.best or None}
        return {**self._asdict(), **own}


def find_sweeps(folder: Path) -> list[ListedSweep]:
    """Read the sweeps in a folder of all runs, of all sweeps, or of one, by name."""
    places = [folder, *folder.glob("*"), *folder.glob(f"{SWEEPS}/*")]
    found = {place.absolute(): place for place in places if (place / PLAN).is_file()}
    return sorted(map(read_sweep, found.values()), key=lambda sweep: sweep.name)


def read_sweep(folder: Path) -> ListedSweep:
    """Read how a sweep gets on, as far as it has been written."""
    rows, plan = read_trials(folder), read_mapping(folder / PLAN)
    done: list[dict[str, Any]] = []
    for row in rows:
        with suppress(ValueError):  # damaged
            if row["state"] == "done" and math.isfinite(value := float(row["value"])):
                done.append({**row, "value": value})
    mode, choose = ("max", max) if plan.get("mode") == "max" else ("min", min)
    best = choose(done, key=lambda row: row["value"], default={})
    states = Counter(row["state"] for row in rows)
    metric = str(plan.get("metric") or "")
    return ListedSweep(folder, dict(states.most_common()), metric, mode, best)


def read_trials(folder: Path) -> list[dict[str, str]]:
    """Read the rows of ``trials.csv``, which is written whole; none where it is damaged."""
    try:
        rows = [*csv.DictReader(read_text(folder / TRIALS).splitlines(keepends=True))]
    except csv.Error:
        return []
    columns = ("trial", "state", "value", "run")
    return [row for row in rows if all(isinstance(row.get(name), str) for name in columns)]


def experiment_of_best(config: Path) -> str | None:
    """Name the experiment of a sweep's ``best.yaml``; None: it is another file."""
    rows = read_trials(config.parent) if config.name == BEST else []
    return next((row["run"].partition("/")[0] for row in rows if row["run"]), None)
