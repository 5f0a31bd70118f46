"""How a sweep gets on: counted from Optuna's trials, those of other machines too, and shown."""

import math
import sys
from collections import Counter
from datetime import datetime, timedelta
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..runs.output import format_value
from .plan import Sweep, describe
from .space import decode
from .study import counts, ticket_of

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

STOPPING = "stopping: saving the runs; Ctrl-C once more ends them at once"
WORDS = {"COMPLETE": "done", "FAIL": "failed"}  # as the states of runs; others as Optuna has them


class Snapshot(NamedTuple):
    """How a sweep gets on at a moment.

    Attributes:
        states: How many trials are done, running, pruned, failed, waiting.
        total: Trials in all; None: as many as there is time for.
        best: What is said of the best trial; None where there is none yet.
        seconds_left: Expected; None: not known yet; 0: all is over, or about to be.
        finished: What is said of each trial that is over, by its number.
    """

    states: Counter[str]
    total: int | None
    best: str | None
    seconds_left: float | None
    finished: dict[int, str]


def by_ticket(study: "Study") -> dict[int, "FrozenTrial"]:
    """Return the trial of each ticket: of several, what has ended on its own, or else the last."""
    found: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        before = found.setdefault(ticket_of(trial), trial)
        if _weight(trial) >= _weight(before):
            found[ticket_of(trial)] = trial
    return dict(sorted(found.items()))


def _weight(trial: "FrozenTrial") -> int:
    if not counts(trial):
        return 0
    return {"WAITING": 1, "RUNNING": 2}.get(trial.state.name, 3)


def state_of(trial: "FrozenTrial") -> str:
    """Say how a trial gets on: done, running, waiting (also to be retried), pruned or failed."""
    if trial.state.is_finished() and not counts(trial):
        return "waiting"
    name: str = trial.state.name
    return WORDS.get(name, name.lower())


def error_of(trial: "FrozenTrial") -> str:
    """Say why a trial failed; one that is retried may have the reason of the time before."""
    is_failed = state_of(trial) == "failed"
    return str(trial.user_attrs.get("error") or "for no known reason") if is_failed else ""


def ranked(study: "Study", trials: dict[int, "FrozenTrial"]) -> list[int]:
    """List the tickets of complete trials, the best first; of equal ones the first."""
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    values = {n: trial.value for n, trial in trials.items() if state_of(trial) == "done"}
    return sorted(values, key=lambda ticket: sign * (values[ticket] or 0.0))


def snapshot(study: "Study", sweep: Sweep, seconds_to_begin: float = math.inf) -> Snapshot:
    """Count the trials of a study, and expect when all will be over.

    Args:
        study: Optuna's.
        sweep: What is searched.
        seconds_to_begin: After which no trial begins.
    """
    trials, limit = by_ticket(study), sweep.num_trials
    if limit is not None:  # it may have been more
        trials = {n: t for n, t in trials.items() if n < limit or state_of(t) != "waiting"}
    is_limited = limit is not None or sweep.sampler == "grid"
    best = next(iter(ranked(study, trials)), None)
    over = [(n, t) for n, t in trials.items() if state_of(t) in ("done", "pruned", "failed")]
    return Snapshot(
        states=Counter(map(state_of, trials.values())),
        total=len(trials) if is_limited else None,
        best=None if best is None else _line(best, trials[best], sweep),
        seconds_left=_seconds_left([*trials.values()], is_limited, seconds_to_begin),
        finished={trial.number: _line(ticket, trial, sweep) for ticket, trial in over},
    )


def _seconds_left(
    trials: list["FrozenTrial"], is_limited: bool, seconds_to_begin: float
) -> float | None:
    """Expect trials to take as long as those that are over, and as many to run as have so far.

    However many runs a trial has, and workers there are, also of other commands.
    """
    spent = [t.duration.total_seconds() for t in trials if t.state.is_finished() and t.duration]
    if not spent or not (is_limited or math.isfinite(seconds_to_begin)):
        return None
    each, now = fmean(spent), datetime.now()  # Optuna's times are local ones
    begun = [t.datetime_start or now for t in trials if state_of(t) == "running"]
    rests = [max(each - (now - start).total_seconds(), 0.0) for start in begun]
    last = seconds_to_begin + each if seconds_to_begin > 0 else max(rests, default=0.0)
    rests += [each] * sum(state_of(t) == "waiting" for t in trials)
    left = max([sum(rests) / _at_once(trials, now), *rests])
    return min(left, last) if is_limited else last


def _at_once(trials: list["FrozenTrial"], now: datetime) -> float:
    """Return how many trials were at work at once, in the mean over the time when any was."""
    spans = [(t.datetime_start, t.datetime_complete or now) for t in trials if t.datetime_start]
    total, busy, end = timedelta(), timedelta(), datetime.min
    for begin, until in sorted(spans):
        total += until - begin
        busy += max(until - max(begin, end), timedelta())
        end = max(end, until)
    return total / busy if busy else 1.0


def _line(ticket: int, trial: "FrozenTrial", sweep: Sweep) -> str:
    """Say how a trial ended, in one line."""
    state = state_of(trial).replace("done", "")
    value = "" if trial.value is None else f"{sweep.metric} {format_value(trial.value)}"
    spent = str(trial.duration).partition(".")[0] if trial.duration else ""
    parts = (state, value, describe(decode(sweep.space, trial.params)), spent, error_of(trial))
    return "  ".join([f"trial {ticket:03}", *filter(None, parts)])


class Progress:
    """Show how a sweep gets on: live on a terminal, else a line for each trial that is over.

    What is over at the first update has been said by the command that was resumed.
    """

    def __init__(self) -> None:
        self._live: Live | None = None
        self._last: Snapshot | None = None

    def __enter__(self) -> "Progress":
        if sys.stdout.isatty():
            self._live = Live(console=Console(), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self.say("")
            self._live.stop()

    @property
    def is_live(self) -> bool:
        """Whether it is shown on a terminal."""
        return self._live is not None

    def update(self, now: Snapshot, doing: str | None = None) -> None:
        """Show a snapshot, and on a terminal what is being done instead of the expected end."""
        before, self._last = self._last or now, now
        if self._live:
            self.say(doing)
            return
        of = "" if now.total is None else f" of {now.total}"
        for number in sorted(now.finished.keys() - before.finished.keys()):
            print(f"{now.finished[number]}  ({len(now.finished)}{of})", flush=True)

    def say(self, doing: str | None) -> None:
        """Show on a terminal what is being done."""
        if self._live and self._last:
            text = Text(live_text(self._last, doing), overflow="fold")
            self._live.update(text, refresh=True)


def live_text(now: Snapshot, doing: str | None = None) -> str:
    """Write a snapshot in a line, and in others the best trial and what is being done, if given."""
    of = "" if now.total is None else f" of {now.total} trials"
    counts = [f"{now.states[name]} {name}" for name in ("done", "running", "pruned", "failed")]
    seconds, end = now.seconds_left, ", end not known yet"
    if doing is not None or seconds == 0:
        end = ""
    elif seconds is not None:
        end = f", ends in {timedelta(seconds=math.ceil(seconds))}"
    best = f"best: {now.best}" if now.best else ""
    return "\n".join(filter(None, [", ".join(counts) + of + end, best, doing]))
