"""Pictures of a sweep, drawn by Optuna itself on matplotlib, without a display."""

import io
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runs.files import replace
from ..runs.output import tolerated
from .plan import Sweep
from .progress import by_ticket

if TYPE_CHECKING:
    from optuna.study import Study

DPI = 120
LONGEST_NAME = 20  # of an option below its axis; longer ones are smaller
LONGEST_LABEL = 24  # of a choice; more is cut
MOST_UPRIGHT = 16  # letters of all choices of an option that are not tilted
# What Optuna says to programmers of parts whose interface may change, and of few trials.
NEEDLESS_WARNINGS = (r".*is experimental", r"Some regimes for parameter", r"Glyph .* missing")


def draw(study: "Study", sweep: Sweep, folder: Path) -> None:
    """Write ``history.png``, ``slice.png`` and ``importances.png``, each where it shows something.

    The second takes an option with two values among complete trials, the third two such options
    and two values of the metric. A picture that fails costs no other.
    """
    with tolerated("plots"), warnings.catch_warnings():
        for pattern in NEEDLESS_WARNINGS:
            warnings.filterwarnings("ignore", pattern)
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
        from optuna.visualization import matplotlib as drawn

        shown = _shown(study, sweep)
        complete = [trial for trial in shown.trials if trial.state.name == "COMPLETE"]
        tried = {name for trial in complete for name in trial.params}
        varied = [n for n in tried if len({t.params[n] for t in complete if n in t.params}) > 1]
        about: dict[str, Any] = {"target_name": _plain(sweep.metric or "value")}
        pictures: dict[str, Callable[[], Any]] = {}
        if complete:
            pictures["history"] = lambda: drawn.plot_optimization_history(shown, **about)
        if varied:
            pictures["slice"] = lambda: drawn.plot_slice(shown, varied, **about)
        values = sorted({trial.value or 0.0 for trial in complete})
        is_log = len(values) > 1 and 0 < 100 * values[0] < values[-1]
        if len(varied) > 1 and len(values) > 1:
            pictures["importances"] = lambda: drawn.plot_param_importances(
                shown, params=varied, **about
            )
        for name, picture in pictures.items():
            with tolerated(f"plots/{name}.png"), plt.style.context("default"):
                try:
                    picture()
                    folder.mkdir(exist_ok=True)
                    replace(folder / f"{name}.png", _png(plt.gcf(), is_log))
                finally:
                    plt.close()


def short(names: Iterable[str]) -> dict[str, str]:
    """Shorten dotted names to their last two parts where those tell them apart."""
    ends = {name: ".".join(name.split(".")[-2:]) for name in names}
    return {n: end if [*ends.values()].count(end) == 1 else n for n, end in ends.items()}


def _shown(study: "Study", sweep: Sweep) -> "Study":
    """Copy what is to be drawn: a trial for each ticket, with short names of options."""
    import optuna

    copy, names = optuna.create_study(direction=study.direction), short(sweep.space)
    for trial in by_ticket(study).values():
        is_complete = trial.state == optuna.trial.TrialState.COMPLETE
        copy.add_trial(
            optuna.create_trial(
                state=trial.state if is_complete else optuna.trial.TrialState.FAIL,
                value=trial.value if is_complete else None,
                params={names[n]: value for n, value in trial.params.items()},
                distributions={names[n]: own for n, own in trial.distributions.items()},
            )
        )
    return copy


def _png(figure: Any, is_log: bool) -> bytes:
    """Have all labels be read, and the values, far apart, on a scale that suits them."""
    from matplotlib.ticker import LogFormatter, MaxNLocator

    for axes in figure.axes:
        labels = [label.get_text() for label in axes.get_xticklabels()]
        is_choice = type(axes.xaxis.get_major_formatter()).__name__ == "StrCategoryFormatter"
        if is_choice and sum(map(len, labels)) > MOST_UPRIGHT:
            axes.set_xticks(range(len(labels)), [*map(_plain, labels)], rotation=45, ha="right")
        if axes.get_xscale() == "log":  # 40 is half as wide as 4 x 10^1
            axes.xaxis.set_major_formatter(LogFormatter())
            axes.xaxis.set_minor_formatter(LogFormatter())
        if axes.get_xlabel() == "Trial":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if axes.get_ylabel() == "Trial":  # a scale of colours
            axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        elif is_log and axes.get_ylabel() != "Hyperparameter":
            axes.set_yscale("log")
        fitting = LONGEST_NAME / max(len(axes.get_xlabel()), LONGEST_NAME)
        axes.xaxis.label.set_size(axes.xaxis.label.get_size() * fitting)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight")
    return file.getvalue()


def _plain(text: str) -> str:
    """Make a text no formula, and no longer than there is room for."""
    cut = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
    return cut.replace("$", r"\$")
