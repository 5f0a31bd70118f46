"""What a sweep leaves in its folder, and says when it ends: its trials, the best, pictures."""

import csv
import io
import json
import re
import shlex
import statistics
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text
from sqlalchemy import make_url

from ..project import current
from ..runs.files import read_text, write_whole
from ..runs.listing import printable
from ..runs.output import drawing, format_value, tolerated
from ..runs.sweeps import BEST, TRIALS
from . import plots
from .plan import Sweep, args_of, describe
from .progress import by_ticket, fill, ranked, state_of
from .space import decode, text

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

MOST_SHOWN = 5
MOST_NAMED = 10  # trials that failed for one reason


def write_results(study: "Study", sweep: Sweep, folder: Path) -> None:
    """Write what is known by now: ``trials.csv``, ``best.yaml`` and ``plots/*.png``."""
    write_trials(study, sweep, folder)
    with tolerated(BEST):
        _write_best(study, sweep, folder)
    plots.draw(study, sweep, folder / "plots")


def write_trials(study: "Study", sweep: Sweep, folder: Path) -> None:
    """Write ``trials.csv``: a row for each ticket, its settings as on the command line."""
    seeds = [f"value_{number}" for number in range(sweep.seeds)] if sweep.seeds > 1 else []
    columns = ["trial", "state", "value", *seeds, *sweep.space, "duration_s", "run", "error"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for ticket, trial in by_ticket(study).items():
        point = decode(sweep.space, trial.params)
        writer.writerow(
            {
                "trial": f"{ticket:03}",
                "state": state_of(trial),
                "value": trial.value,
                **dict(zip(seeds, trial.user_attrs.get("values") or [], strict=False)),
                **{name: text(value) for name, value in point.items()},
                "duration_s": trial.duration and round(trial.duration.total_seconds(), 3),
                "run": _run(trial),
                "error": _error(trial),
            }
        )
    with tolerated(TRIALS):
        write_whole(folder / TRIALS, file.getvalue())


def _write_best(study: "Study", sweep: Sweep, folder: Path) -> None:
    """Write the configuration of the best trial's run, if it is on this machine.

    It is the run's own, which is exact, but for ``runs_dir``: what repeats it is no trial.
    """
    trials = by_ticket(study)
    best = next(iter(ranked(study, trials)), None)
    config = "" if best is None else read_text(folder / _run(trials[best]) / "config.yaml")
    if best is None or not config:
        (folder / BEST).unlink(missing_ok=True)  # of a trial that is no longer the best
        return
    trial = trials[best]
    about = (
        f"Trial {best:03}, the best of the sweep {sweep.name}: {sweep.metric} {_value(trial)}\n"
        f"{describe(decode(sweep.space, trial.params))}"
    )
    head = "".join(f"# {printable(line)}\n" for line in about.splitlines())
    place = f"runs_dir: {json.dumps(str(folder.parent.parent))}\n"
    own = re.sub(r"(?m)^runs_dir:.*\n(?:[ \t].*\n)*", lambda found: place, config)
    write_whole(folder / BEST, head + own)


def report(study: "Study", sweep: Sweep, folder: Path, storage: str | None = None) -> None:
    """Print the best trials, why others failed, and what is where.

    Args:
        study: Optuna's.
        sweep: What was searched.
        folder: The sweep's.
        storage: Address of the database; None: the file in ``folder``.
    """
    trials = by_ticket(study)
    order = ranked(study, trials)
    states = Counter(map(state_of, trials.values()))
    with drawing() as console:
        if order:
            console.print(
                _table([trials[ticket] for ticket in order[:MOST_SHOWN]], sweep, console.width)
            )
        counts = ", ".join(f"{number} {state}" for state, number in states.most_common())
        lines = ["", f"Trials of {sweep.name}: {counts}", *_failures(trials), _written(folder)]
        for ticket in order[:1]:
            lines += _repeat(trials[ticket], sweep, folder)
        url = make_url(storage or f"sqlite:///{folder / 'study.db'}").render_as_string()
        lines.append(f"Look at all trials: optuna-dashboard {shlex.quote(url)}")  # no password
        for line in lines:
            console.print(Text(printable(line)), soft_wrap=True)  # no path is broken in two


def _table(best: list["FrozenTrial"], sweep: Sweep, width: int) -> Table:
    """Make a table of trials, with their settings beside the run, or below it to be whole."""
    names, metric = plots.short(sweep.space), str(sweep.metric)
    cells = []
    for trial in best:
        point = decode(sweep.space, trial.params)
        parts = [printable(describe({names[name]: value})) for name, value in point.items()]
        cells.append((printable(_run(trial)), _value(trial), parts))
    right = max(len(value) for value in (metric, *(value for _, value, _ in cells)))
    rest = width - right - max(len(run) for run, *_ in cells) - 7  # between columns
    is_beside = all(len(part) + 3 < rest for *_, parts in cells for part in parts)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column(Text(metric), justify="right", no_wrap=True)
    if is_beside:
        table.add_column("settings")
    for run, value, parts in cells:
        if is_beside:
            table.add_row(Text(run), value, Text("\n".join(fill(parts, rest))))
        else:
            below = [f"  {line}" for line in fill(parts, width - right - 6)]
            table.add_row(Text("\n".join([run, *below])), value)
    return table


def _failures(trials: dict[int, "FrozenTrial"]) -> list[str]:
    """Say each reason once, with the trials that failed for it."""
    found: dict[str, list[str]] = {}
    for ticket, trial in trials.items():
        if reason := _error(trial):
            found.setdefault(reason, []).append(f"{ticket:03}")
    return [f"Failed ({_some(tickets)}): {reason}" for reason, tickets in found.items()]


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join([*names[:MOST_NAMED], *([f"{more} more"] if more > 0 else [])])


def _written(folder: Path) -> str:
    files = [folder / TRIALS, folder / BEST, *sorted(folder.glob("plots/*.png"))]
    names = [str(file.relative_to(folder)) for file in files if file.is_file()]
    return f"Written in {folder}: {', '.join(names)}"


def _repeat(trial: "FrozenTrial", sweep: Sweep, folder: Path) -> list[str]:
    """Say how the best trial is repeated: by its own configuration, if its run is here."""
    train = current().command("train")
    if (folder / BEST).is_file():
        return [f"Repeat the best: {train} --config {shlex.quote(str(folder / BEST))}"]
    command = shlex.join(args_of(sweep, decode(sweep.space, trial.params)))
    return [
        f"No {BEST}: {_run(trial)}, the run of the best trial, is not on this machine.",
        f"Repeat it: {train} {command}",
    ]


def _value(trial: "FrozenTrial") -> str:
    """Write the value of a trial; of several seeds their mean, standard deviation and number."""
    value, seeds = trial.value or 0.0, trial.user_attrs.get("values") or []
    if len(seeds) < 2:
        return format_value(value)
    return f"{value:.5g} ± {statistics.stdev(seeds):.2g} ({len(seeds)})"


def _run(trial: "FrozenTrial") -> str:
    """Name the run of a trial, of several that with the first seed; "" before it has begun."""
    return next(iter(trial.user_attrs.get("runs") or []), "")


def _error(trial: "FrozenTrial") -> str:
    """Say why a trial failed; one that is retried may have the reason of the time before."""
    if state_of(trial) != "failed":
        return ""
    return str(trial.user_attrs.get("error") or "for no known reason")
