"""List runs, newest first: state, metrics, what differs in their configs, duration, speed."""

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors.bad_input import Arguments, InputError, readable
from ..errors.checks import suggest
from ..project import Project
from ..runs.files import write_out
from ..runs.listing import Group, Run, find_runs, group_seeds, printable, text_of
from ..runs.tables import draw_runs, is_reading

COLUMNS = ("run", "state", "error", "duration_s", "samples_per_s")  # beside metrics and settings
SHORT = {"duration": "duration_s", "samples/s": "samples_per_s"}  # as the table heads them


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.runs`` with ``args``, or with the process\'s."""
    project.use()
    with readable():
        known = Arguments(prog=f"python -m {project.package}.runs", description=__doc__)
        known.add_argument(
            "dir",
            metavar="DIR",
            nargs="?",
            default="runs",
            help="folder of all runs (default: runs), of an experiment's or of one",
        )
        known.add_argument("--sort", metavar="NAME", help="a column; -NAME: the largest first")
        known.add_argument("--json", action="store_true", help="write JSON")
        known.add_argument("--csv", action="store_true", help="write CSV")
        options = known.parse_args(joined(sys.argv[1:] if args is None else args))
        if options.json and options.csv:
            raise InputError("--json: given beside --csv. Use one of them.")
        runs = find_runs(Path(options.dir))
        column = None if options.sort is None else find_column(runs, options.sort)
        if column is not None:
            runs = sort(runs, column, options.sort.startswith("-"))
        groups = group_seeds(runs)
        if options.json:
            write_out(as_json(runs, groups))
        elif options.csv:
            write_out(as_csv(runs))
        else:
            write_out(draw_runs(runs, groups, column))
    return 0


def joined(args: Sequence[str]) -> list[str]:
    """Join ``--sort -NAME`` to one token, which argparse would take for another option."""
    tokens = list(args)
    for number, token in enumerate(tokens[:-1]):
        if token == "--sort" and tokens[number + 1][:1] == "-" != tokens[number + 1][1:2]:
            tokens[number : number + 2] = [f"--sort={tokens[number + 1]}"]
            break
    return tokens


def row_of(run: Run) -> dict[str, Any]:
    """List the columns of a run by their names: those of each, metrics, settings that differ."""
    state, error, seconds, _ = run.progress
    spent = None if seconds is None else round(seconds, 3)
    speed = run.metrics.get("samples_per_s")
    own = (run.name, state, error and printable(error), spent, speed)
    return {**run.differs, **run.metrics, **dict(zip(COLUMNS, own, strict=True))}


def find_column(runs: list[Run], given: str) -> str:
    """Find a column by its name or, where only one ends so, by the last parts of it.

    Raises:
        InputError: There is no such column.
    """
    names = dict.fromkeys(column for run in runs for column in row_of(run))
    name = SHORT.get(given.lstrip("-"), given.lstrip("-"))
    ending = [known for known in names if known.endswith(f".{name}")]
    if name in names and not (is_reading(name) and ending):  # `lr` is what a person has set
        return name
    if len(ending) != 1:
        choices = suggest(name, ending or {*names, *SHORT}, bool(ending))
        raise InputError(f"--sort {given}: no such column. {choices}")
    return ending[0]


def sort(runs: list[Run], column: str, is_descending: bool) -> list[Run]:
    """Sort runs by a column; those that have no value in it come last."""
    keys = {run.folder: sort_key(row_of(run).get(column)) for run in runs}
    having = [run for run in runs if keys[run.folder] is not None]
    having.sort(key=lambda run: keys[run.folder] or (), reverse=is_descending)
    return having + [run for run in runs if keys[run.folder] is None]


def sort_key(value: Any) -> tuple[Any, ...] | None:
    """Make values of any kind comparable, numbers first; None where there is none."""
    if value is None or value != value:
        return None
    return (0, value) if isinstance(value, (int, float)) else (1, text_of(value))


def as_json(runs: list[Run], groups: list[Group]) -> str:
    """Write runs and groups as JSON, with null for what is no number."""
    shown = []
    for run in runs:
        row = row_of(run)
        parts = {"folder": printable(str(run.folder)), "metrics": run.metrics}
        shown.append({**{name: row[name] for name in COLUMNS}, **parts, "config": run.differs})
    content = {"runs": shown, "groups": [group._asdict() for group in groups]}
    return json.dumps(finite(content), indent=2) + "\n"


def as_csv(runs: list[Run]) -> str:
    """Write a line for each run, and a column for each metric and each setting that differs."""
    metrics = sorted({name for run in runs for name in run.metrics})
    settings = [key for run in runs for key in run.differs]
    lines = io.StringIO(newline="")
    columns = dict.fromkeys([*COLUMNS, *metrics, *settings])
    writer = csv.DictWriter(lines, [*columns], lineterminator="\n")
    writer.writeheader()
    for run in runs:
        row = {key: "" if value is None else value for key, value in row_of(run).items()}
        writer.writerow({k: v if isinstance(v, float) else text_of(v) for k, v in row.items()})
    return lines.getvalue()


def finite(tree: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(tree, dict):
        return {printable(str(key)): finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
