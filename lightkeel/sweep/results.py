"""What a sweep leaves in its folder, and says when it ends: its trials, the best, pictures."""

import csv
import io
import json
import re
import shlex
import statistics
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text
from sqlalchemy import make_url

from ..project import current
from ..runs.files import read_text, replace, write_whole
from ..runs.listing import printable
from ..runs.output import drawing, format_value, tolerated
from ..runs.sweeps import BEST, TRIALS
from .plan import Sweep, describe
from .progress import by_ticket, error_of, ranked, state_of
from .space import decode, text
from .study import ticket_of

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

MOST_SHOWN = 5
DPI = 120
PICTURES = {
    "history": "plot_optimization_history",
    "slice": "plot_slice",
    "importances": "plot_param_importances",
}


def write_results(study: "Study", sweep: Sweep, folder: Path) -> None:
    """Write what is known by now: ``trials.csv``, ``best.yaml`` and ``plots/*.png``."""
    write_trials(study, sweep, folder)
    with tolerated(BEST):
        _write_best(study, sweep, folder)
    _draw(study, sweep, folder / "plots")


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
                "error": error_of(trial),
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


def _draw(study: "Study", sweep: Sweep, folder: Path) -> None:
    """Write ``history.png`` and ``slice.png`` once a trial is complete, and ``importances.png``.

    The last takes two options with two values. A picture that fails costs no other.
    """
    trials = [*by_ticket(study).values()]
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    tried = [{trial.params.get(name) for trial in done} for name in sweep.space]
    varied = [values for values in tried if len(values) > 1 and None not in values]
    if not done:
        return
    with tolerated("plots"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few trials, and interfaces that may change
        import matplotlib
        import optuna

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        shown = optuna.create_study(direction=study.direction)
        shown.add_trials(trials)  # whose numbers are so their tickets
        for name, function in PICTURES.items():
            if name == "importances" and len(varied) < 2:
                continue
            with tolerated(f"plots/{name}.png"), plt.style.context("default"):
                try:
                    picture = getattr(optuna.visualization.matplotlib, function)
                    picture(shown, target_name=sweep.metric)
                    _adjust(plt.gcf().axes, [trial.value or 0.0 for trial in done], sweep.metric)
                    file = io.BytesIO()
                    plt.savefig(file, format="png", dpi=DPI, bbox_inches="tight")
                    folder.mkdir(exist_ok=True)
                    replace(folder / f"{name}.png", file.getvalue())
                finally:
                    plt.close()


def _adjust(all_axes: list[Any], values: list[float], metric: str | None) -> None:
    """Have values that are far apart be told apart, numbers of trials be whole, names be read."""
    for axes in all_axes:
        if axes.get_ylabel() == metric and 0 < 100 * min(values) < max(values):
            axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_label_text() == "Trial":
                axis.get_major_locator().set_params(integer=True)
        axes.xaxis.label.set_fontsize("x-small")
        axes.tick_params("x", which="minor", labelsize="xx-small", rotation=60)


def report(study: "Study", sweep: Sweep, folder: Path, storage: str | None = None) -> None:
    """Print the best trials, why others failed, and what is where.

    Args:
        study: Optuna's.
        sweep: What was searched.
        folder: The sweep's.
        storage: Address of the database; None: the file in ``folder``.
    """
    trials = by_ticket(study)
    best = [trials[ticket] for ticket in ranked(study, trials)[:MOST_SHOWN]]
    counts = Counter(map(state_of, trials.values())).most_common()
    reasons = Counter(filter(None, map(error_of, trials.values()))).most_common()
    files = [folder / TRIALS, folder / BEST, *sorted(folder.glob("plots/*.png"))]
    written = [str(file.relative_to(folder)) for file in files if file.is_file()]
    lines = [
        "",
        f"Trials of {sweep.name}: {', '.join(f'{number} {state}' for state, number in counts)}",
        *(f"{number} failed: {reason}" for reason, number in reasons),
        f"Written in {folder}: {', '.join(written)}",
    ]
    if best:
        run, command = folder / _run(best[0]), current().command
        first = " with its first seed" if sweep.seeds > 1 else ""
        lines.append(f"Run of the best trial{first}: {run}")
        if BEST in written:
            path = shlex.quote(str(folder / BEST))
            lines.append(f"Evaluate it: {command('evaluate')} {shlex.quote(str(run))}")
            lines.append(f"Train it anew: {command('train')} --config {path}")
        else:
            lines[-1] += f" is not on this machine, so there is no {BEST}."
    url = make_url(storage or f"sqlite:///{folder / 'study.db'}").render_as_string()
    lines.append(f"Look at all trials: optuna-dashboard {shlex.quote(url)}")  # no password
    with drawing() as console:
        if best:
            console.print(_table(best, sweep))
        for line in lines:
            console.print(Text(printable(line)), soft_wrap=True)  # no path is broken in two


def _table(best: list["FrozenTrial"], sweep: Sweep) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("run", overflow="fold")
    kind = "\nmean ± sd (n)" if sweep.seeds > 1 else ""
    table.add_column(Text(f"{sweep.metric}{kind}"), justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold")
    for trial in best:
        settings = describe(decode(sweep.space, trial.params))
        name = f"{_run(trial).partition('/')[0]}/{ticket_of(trial):03}"  # of all its seeds
        table.add_row(Text(printable(name)), _value(trial), Text(printable(settings)))
    return table


def _value(trial: "FrozenTrial") -> str:
    """Write the value of a trial; of several seeds their mean, standard deviation and number."""
    value, seeds = trial.value or 0.0, trial.user_attrs.get("values") or []
    if len(seeds) < 2:
        return format_value(value)
    return f"{value:.5g} ± {statistics.stdev(seeds):.2g} ({len(seeds)})"


def _run(trial: "FrozenTrial") -> str:
    """Name the run of a trial, of several that with the first seed; "" before it has begun."""
    return next(iter(trial.user_attrs.get("runs") or []), "")
