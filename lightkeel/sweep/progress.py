"""How a sweep gets on: counted from Optuna's trials, those of other machines too, and shown."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean
from typing import TYPE_CHECKING, Any

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

WORDS = {"COMPLETE": "done", "FAIL": "failed"}  # as the states of runs; others as Optuna has them


@dataclass(frozen=True)
class Snapshot:
    """How a sweep gets on at a moment.

    Attributes:
        done: Trials that are complete; ``running``, ``pruned`` and ``failed`` are beside them.
        total: Trials in all; None: as many as there is time for.
        best_ticket: Ticket of the best trial, None where there is none yet.
        seconds_left: Expected; None: not known yet.
        finished: What is said of each trial that is over, by its number.
    """

    done: int
    running: int
    pruned: int
    failed: int
    total: int | None
    best_value: float | None
    best_point: dict[str, Any]
    best_ticket: int | None
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


def ranked(study: "Study", trials: dict[int, "FrozenTrial"]) -> list[int]:
    """List the tickets of complete trials, the best first; of equal ones the first."""
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    values = {n: trial.value for n, trial in trials.items() if state_of(trial) == "done"}
    return sorted(values, key=lambda ticket: sign * (values[ticket] or 0.0))


def snapshot(
    study: "Study", sweep: Sweep, workers: int = 1, seconds_to_begin: float | None = None
) -> Snapshot:
    """Count the trials of a study, and expect when all will be over.

    Args:
        study: Optuna's.
        sweep: What is searched.
        workers: Trials at once, for when none is running.
        seconds_to_begin: After which no trial begins; None: without a limit.
    """
    trials, limit = by_ticket(study), sweep.num_trials
    if limit is not None:  # it may have been more
        trials = {n: t for n, t in trials.items() if n < limit or state_of(t) != "waiting"}
    states = [*map(state_of, trials.values())]
    best = next(iter(ranked(study, trials)), None)
    is_limited = limit is not None or sweep.sampler == "grid"
    over = [(n, t) for n, t in trials.items() if state_of(t) in ("done", "pruned", "failed")]
    return Snapshot(
        done=states.count("done"),
        running=states.count("running"),
        pruned=states.count("pruned"),
        failed=states.count("failed"),
        total=len(trials) if is_limited else None,
        best_value=None if best is None else trials[best].value,
        best_point={} if best is None else decode(sweep.space, trials[best].params),
        best_ticket=best,
        seconds_left=_seconds_left([*trials.values()], is_limited, workers, seconds_to_begin),
        finished={trial.number: _line(ticket, trial, sweep) for ticket, trial in over},
    )


def _seconds_left(
    trials: list["FrozenTrial"], is_limited: bool, workers: int, seconds_to_begin: float | None
) -> float | None:
    """Expect trials to take as long as those that are over, and as many to run as do now."""
    spent = [t.duration.total_seconds() for t in trials if t.state.is_finished() and t.duration]
    if not spent or not (is_limited or seconds_to_begin is not None):
        return None
    each, now = fmean(spent), datetime.now()  # Optuna's times are local ones
    begun = [t.datetime_start or now for t in trials if state_of(t) == "running"]
    rests = [each - min(max((now - start).total_seconds(), 0.0), each) for start in begun]
    last = max(seconds_to_begin, 0.0) + each if seconds_to_begin is not None else float("inf")
    if not is_limited:
        return last
    num_waiting = sum(state_of(t) == "waiting" for t in trials)
    at_once = len(begun) or min(workers, num_waiting) or 1
    longest = each if num_waiting else max(rests, default=0.0)
    return min(max((sum(rests) + num_waiting * each) / at_once, longest), last)


def _line(ticket: int, trial: "FrozenTrial", sweep: Sweep) -> str:
    """Say how a trial ended, in one line."""
    state = state_of(trial).replace("done", "")
    value = "" if trial.value is None else f"{sweep.metric} {format_value(trial.value)}"
    spent = str(trial.duration).partition(".")[0] if trial.duration else ""
    error = trial.user_attrs.get("error") if state == "failed" else None
    parts = (state, value, describe(decode(sweep.space, trial.params)), spent, error)
    return "  ".join([f"trial {ticket:03}", *filter(None, parts)])


class Progress:
    """Show how a sweep gets on: live on a terminal, else a line for each trial that is over.

    What is over at the first update has been said by the command that was resumed.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._live: Live | None = None
        self._said: set[int] | None = None

    def __enter__(self) -> "Progress":
        if sys.stdout.isatty():
            self._live = Live(console=Console(), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, now: Snapshot) -> None:
        """Show a snapshot."""
        said = now.finished.keys() if self._said is None else self._said
        self._said = {*now.finished}
        if self._live:
            lines = live_lines(now, self.sweep, self._live.console.width)
            self._live.update(Text("\n".join(lines), overflow="fold"), refresh=True)
            return
        of = "" if now.total is None else f" of {now.total}"
        for number in sorted(self._said.difference(said)):
            print(f"{now.finished[number]}  ({len(self._said)}{of})", flush=True)


def live_lines(now: Snapshot, sweep: Sweep, width: int) -> list[str]:
    """Write a snapshot in lines of a width, which break between two numbers or settings."""
    counts = [f"{getattr(now, name)} {name}" for name in ("done", "running", "pruned", "failed")]
    counts[-1] += "" if now.total is None else f" of {now.total} trials"
    left = now.seconds_left
    if left is None:
        counts.append("end not known yet")
    elif left:
        counts.append(f"ends in {timedelta(seconds=round(left))}")
    lines = fill(counts, width)
    if now.best_value is not None:
        best = f"best {sweep.metric} {format_value(now.best_value)}"
        settings = [describe({name: value}) for name, value in now.best_point.items()]
        lines += fill([best, f"trial {now.best_ticket:03}", *settings], width)
    return lines


def fill(parts: Iterable[str], width: int) -> list[str]:
    """Join parts by commas to lines of a width, each part whole; further lines are indented."""
    lines = [""]
    for part in parts:
        joined = f"{lines[-1]}, {part}" if lines[-1].strip() else f"{lines[-1]}{part}"
        if len(joined) < width or not lines[-1].strip():  # there is room for a comma
            lines[-1] = joined
        else:
            lines[-1] += ","
            lines.append(f"  {part}")
    return lines
