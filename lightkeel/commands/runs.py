"""List runs, newest first: state, metrics, what differs in their configs, duration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors.bad_input import Arguments, InputError
from ..errors.checks import suggest
from ..project import Project
from ..runs.files import to_json
from ..runs.listing import ListedRun, find_runs, group_seeds, text_of
from ..runs.output import write_out
from ..runs.tables import print_runs
from . import command

SHORT = {"duration": "duration_s"}  # as the table heads it


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.runs`` with ``args`` (default: the process's)."""
    with command(project, args) as given:
        known = Arguments(prog=project.command("runs"), description=__doc__)
        where = "folder of all runs (default: runs), of an experiment's or of one"
        known.add_argument("dir", metavar="DIR", nargs="?", default="runs", help=where)
        known.add_argument("--sort", metavar="NAME", help="a column; -NAME: the largest first")
        known.add_argument("--json", action="store_true", help="write JSON")
        # To argparse `-NAME` would be another option.
        tokens = "\0".join(given).replace("--sort\0-", "--sort=-").split("\0")
        options = known.parse_args(tokens if given else [])
        runs = find_runs(Path(options.dir))
        column = None if options.sort is None else find_column(runs, options.sort)
        if column is not None:
            runs = sort(runs, column, options.sort.startswith("-"))
        groups = group_seeds(runs)
        if options.json:
            shown = [as_json(run) for run in runs]
            write_out(to_json({"runs": shown, "groups": [group._asdict() for group in groups]}))
        else:
            print_runs(runs, groups, column)
    return 0


def as_json(run: ListedRun) -> dict[str, Any]:
    """List what is known of a run."""
    state, error, seconds, _ = run.state
    spent = None if seconds is None else round(seconds, 3)
    own = {"run": run.name, "state": state, "error": error, "duration_s": spent}
    return {**own, "folder": str(run.folder), "metrics": run.metrics, "config": run.differs}


def values_of(run: ListedRun) -> dict[str, Any]:
    """List what runs can be sorted by."""
    parts = as_json(run)
    return parts.pop("config") | parts.pop("metrics") | parts


def find_column(runs: list[ListedRun], given: str) -> str:
    """Find a column by its name or, where only one setting ends so, by the last parts of it.

    Raises:
        InputError: There is no such column.
    """
    names = dict.fromkeys(column for run in runs for column in values_of(run))
    name = SHORT.get(given.lstrip("-"), given.lstrip("-"))
    # `lr` is rather what a person has set than what it was in the end.
    found = [known for known in names if known.endswith(f".{name}")] or [*names.keys() & {name}]
    if len(found) != 1:
        hint = suggest(name, found or names, bool(found))
        raise InputError(f"--sort {given}: no such column. {hint}")
    return found[0]


def sort(runs: list[ListedRun], column: str, is_descending: bool) -> list[ListedRun]:
    """Sort runs by a column, numbers before texts; those that have no value in it come last."""
    having: list[tuple[tuple[bool, Any], ListedRun]] = []
    without = []
    for run in runs:
        value = values_of(run).get(column)
        if value is None or value != value:
            without.append(run)
        else:
            is_number = isinstance(value, (int, float))
            having.append(((not is_number, value if is_number else text_of(value)), run))
    having.sort(key=lambda pair: pair[0], reverse=is_descending)
    return [run for _, run in having] + without
