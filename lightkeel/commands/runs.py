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
        column = None
        if options.sort is not None:
            runs, column = sort(runs, options.sort)
        groups = group_seeds(runs)
        if options.json:
            shown = [as_json(run) for run in runs]
            write_out(to_json({"runs": shown, "groups": groups}))
        else:
            print_runs(runs, groups, column)
    return 0


def as_json(run: ListedRun) -> dict[str, Any]:
    """List what is known of a run."""
    state, error, seconds, _ = run.state
    spent = None if seconds is None else round(seconds, 3)
    own = {"run": run.name, "state": state, "error": error, "duration_s": spent}
    return {**own, "folder": str(run.folder), "metrics": run.metrics, "config": run.differs}


def sort(runs: list[ListedRun], given: str) -> tuple[list[ListedRun], str]:
    """Sort runs by a column, named in full or by its last parts; without a value they come last.

    Raises:
        InputError: There is no such column.
    """
    rows = {run.folder: {**run.differs, **run.metrics, **as_json(run)} for run in runs}
    names = {n for row in rows.values() for n in row} - {"metrics", "config"}
    name = SHORT.get(given.lstrip("-"), given.lstrip("-"))
    # `lr` is rather what a person has set than what it was in the end.
    found = [known for known in names if known.endswith(f".{name}")] or [*names & {name}]
    if len(found) != 1:
        hint = suggest(name, found or names, bool(found))
        raise InputError(f"--sort {given}: no such column. {hint}")
    values = {folder: row.get(found[0]) for folder, row in rows.items()}
    lacking = {f for f, value in values.items() if value is None or value != value}

    def key(run: ListedRun) -> tuple[bool, Any]:  # numbers before texts
        value = values[run.folder]
        return (False, value) if isinstance(value, (int, float)) else (True, text_of(value))

    having = [run for run in runs if run.folder not in lacking]
    having.sort(key=key, reverse=given.startswith("-"))
    return having + [run for run in runs if run.folder in lacking], found[0]
