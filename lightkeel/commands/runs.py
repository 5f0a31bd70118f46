"""List runs, newest first: state, metrics, what differs in their configs, duration; and sweeps.

In the folder of a sweep its trials are listed, the best first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors.bad_input import Arguments
from ..project import Project
from ..runs.files import to_json
from ..runs.listing import ListedRun, best_first, find_runs, group_seeds, sort, take_best
from ..runs.output import write_out
from ..runs.sweeps import find_sweeps
from ..runs.tables import print_runs
from . import command


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.runs`` with ``args`` (default: the process's)."""
    with command(project, args) as given:
        known = Arguments(prog=project.command("runs"), description=__doc__)
        where = "folder of all runs (default: runs), of an experiment's, a sweep's, or of one"
        known.add_argument("dir", metavar="DIR", nargs="?", default="runs", help=where)
        known.add_argument("--sort", metavar="NAME", help="a column; -NAME: the largest first")
        known.add_argument("--json", action="store_true", help="write JSON")
        # To argparse `-NAME` would be another option.
        tokens = "\0".join(given).replace("--sort\0-", "--sort=-").split("\0")
        options = known.parse_args(tokens if given else [])
        folder = Path(options.dir)
        runs, sweeps = find_runs(folder), find_sweeps(folder)
        searched = next((sweep for sweep in sweeps if sweep.folder == folder), None)
        if searched:
            take_best(runs, searched)
        groups = group_seeds(runs)
        if options.sort is not None:
            runs = sort(runs, options.sort)
        elif searched:
            runs, groups = best_first(runs, groups, searched)
        if options.json:
            found = {"runs": [_as_json(run) for run in runs], "groups": groups}
            write_out(to_json({**found, "sweeps": [sweep.as_json() for sweep in sweeps]}))
        else:
            first = [(options.sort or "").removeprefix("-"), searched.metric if searched else ""]
            print_runs(runs, groups, sweeps, first)
    return 0


def _as_json(run: ListedRun) -> dict[str, Any]:
    state, error, seconds, _ = run.state
    spent = None if seconds is None else round(seconds, 3)
    own = {"run": run.name, "state": state, "error": error, "duration_s": spent}
    return {**own, "folder": str(run.folder), "metrics": run.metrics, "config": run.differs}
