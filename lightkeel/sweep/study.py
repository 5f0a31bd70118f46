"""The study of a sweep: Optuna's, in a database, with a ticket for each trial that is due.

A ticket is a number that a trial carries in its user attributes. One that was interrupted is
retried under its ticket, so that in the end each ticket has one trial that counts, however many
commands take trials at once and whichever of them are killed.
"""

import inspect
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from optuna import pruners, samplers
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState

from ..errors.bad_input import InputError
from ..errors.checks import suggest
from . import REPEATED, STOPPED
from .database import FILE, connected
from .plan import Sweep, identity
from .space import encode, points, suggest as suggest_point

OVER = (TrialState.COMPLETE, TrialState.PRUNED)
DUE = (TrialState.WAITING, TrialState.RUNNING)
EXHAUSTED = "exhausted"  # the search that has tried all
HEARTBEAT_S, GRACE_S = 5, 30  # a trial without a sign of life for so long is retried


@dataclass
class Claimed:
    """A trial that this command runs."""

    ticket: int
    trial: Trial
    trial_id: int
    point: dict[str, Any]
    runs: list[str]  # folders of runs that it had when it was interrupted, and has begun since


class SweepStudy:
    """The trials of a sweep.

    Args:
        sweep: What is searched, with its metric and mode.
        url: Address of the database.
        is_alone: No other command can be at work in it.

    Raises:
        InputError: No such database, sampler or pruner, or another sweep of this name in it.
    """

    def __init__(self, sweep: Sweep, url: str, is_alone: bool) -> None:
        self.sweep, self.is_alone = sweep, is_alone
        self.grid = points(sweep.space) if sweep.sampler == "grid" else None
        self.num_tickets = len(self.grid) if self.grid is not None else sweep.num_trials
        self.pruner = pruner_of(sweep)
        self.retry = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
        self.storage = connected(
            url,
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
            heartbeat_stale_trial_callback=self.retry,
        )
        self.study, is_new = self._opened()
        self._id = self.storage.get_study_id_from_name(sweep.name)
        if is_new:
            self._enqueue_missing()
        else:
            self._check_same()
            self._join()

    def _opened(self) -> tuple[optuna.Study, bool]:
        direction = {"min": "minimize", "max": "maximize"}[str(self.sweep.mode)]
        try:
            study = optuna.create_study(
                storage=self.storage, study_name=self.sweep.name, direction=direction
            )
        except DuplicatedStudyError:
            return self._loaded(), False
        study.set_metric_names([str(self.sweep.metric)])  # for the dashboard
        study.set_user_attr("sweep", identity(self.sweep))
        return study, True

    def _loaded(self, ticket: int = 0) -> optuna.Study:
        return optuna.load_study(
            study_name=self.sweep.name,
            storage=self.storage,
            sampler=sampler_of(self.sweep, ticket),
            pruner=self.pruner,
        )

    def _check_same(self) -> None:
        self._await("sweep")
        if "sweep" in self.study.user_attrs:
            _compare(self.sweep, self.study)
        else:  # whoever has made it was killed right then
            self.study.set_user_attr("sweep", identity(self.sweep))

    def _await(self, attribute: str) -> None:
        """Wait for what the command sets that has made the study, as long as it may."""
        seen, since = -1, time.monotonic() - GRACE_S * self.is_alone
        while attribute not in self.study.user_attrs and time.monotonic() < since + GRACE_S:
            number = len(self.study.get_trials(deepcopy=False))
            seen, since = number, since if number == seen else time.monotonic()
            time.sleep(0.2)

    def _join(self) -> None:
        """Wait until all tickets are there, or add what is missing; retry what nobody runs."""
        if self.is_alone:
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self._requeue(self._trial_id(trial.number))
        else:
            self._await("tickets")
        self._enqueue_missing()

    def _enqueue_missing(self) -> None:
        """Add a trial for each ticket that has none, or whose last one was to be retried."""
        tries: dict[int, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            tries.setdefault(ticket_of(trial), []).append(trial)
        number = self.num_tickets
        for ticket in range(max(tries, default=-1) + 1 if number is None else number):
            before = [t for t in tries.get(ticket, []) if t.user_attrs.get("error") != REPEATED]
            if not before:
                self._enqueue(ticket)
            elif not any(map(counts, before)):  # a command was killed as it did this
                self.retry(self.study, self.storage.get_trial(self._trial_id(before[-1].number)))
        self.study.set_user_attr("tickets", number)

    def _enqueue(self, ticket: int) -> None:
        point = encode(self.grid[ticket]) if self.grid is not None else {}
        self.study.enqueue_trial(point, user_attrs={"ticket": ticket})

    def add(self) -> None:
        """Add a ticket, where their number is not given."""
        trials = self.study.get_trials(deepcopy=False)
        self._enqueue(max(map(ticket_of, trials), default=-1) + 1)

    def claim(self) -> Claimed | None:
        """Take the next trial that waits, and choose its point; None: none waits."""
        for trial in sorted(self._due(DUE[:1]), key=lambda t: (ticket_of(t), t.number)):
            trial_id = self._trial_id(trial.number)
            self.storage.record_heartbeat(trial_id)  # or else a kill now would never be noticed
            try:
                if not self.storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    continue
            except UpdateFinishedTrialError:
                continue
            if not self._is_repeated(trial):
                return self._begin(trial, trial_id)
            self._set_error(trial_id, REPEATED)
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        return None

    def _due(self, states: tuple[TrialState, ...] = DUE) -> list[FrozenTrial]:
        """List the trials that wait or run, of those that this sweep is to have."""
        trials = self.study.get_trials(deepcopy=False, states=states)
        if self.study.user_attrs.get(EXHAUSTED) == self._search:  # what has a point is retried
            trials = [t for t in trials if t.state is not TrialState.WAITING or t.params]
        limit = self.num_tickets
        return [t for t in trials if limit is None or ticket_of(t) < limit]

    @property
    def _search(self) -> str:
        """Name all that decides whether there is a point left to try."""
        return f"{self.num_tickets} by {self.sweep.sampler} {self.sweep.sampler_args}"

    def _is_repeated(self, trial: FrozenTrial) -> bool:
        """Tell whether another trial has the ticket, as two commands have added it at once."""
        others = [
            t for t in self.study.get_trials(deepcopy=False) if ticket_of(t) == ticket_of(trial)
        ]
        return any(counts(t) and (t.state not in DUE or t.number < trial.number) for t in others)

    def _begin(self, frozen: FrozenTrial, trial_id: int) -> Claimed:
        ticket = ticket_of(frozen)
        # A study of its own, whose sampler is a function of the seed and the ticket.
        study: Any = self._loaded(ticket)
        study.stop = lambda: study.set_user_attr(EXHAUSTED, self._search)  # called by a sampler
        study.get_trials(deepcopy=False)  # or else its cache does not know the trial
        trial = Trial(study, trial_id)
        trial.set_user_attr("error", None)
        point = suggest_point(self.sweep.space, trial)
        return Claimed(ticket, trial, trial_id, point, [*frozen.user_attrs.get("runs", [])])

    def complete(self, claimed: Claimed, values: list[float]) -> None:
        """Record the value of a trial: the mean of those of its seeds."""
        claimed.trial.set_user_attr("values", values)
        self._tell(claimed, TrialState.COMPLETE, fmean(values))

    def prune(self, claimed: Claimed) -> None:
        """Record that a trial was not worth to be finished."""
        self._tell(claimed, TrialState.PRUNED)

    def fail(self, claimed: Claimed, error: str) -> None:
        """Record why a trial failed; it is not run again."""
        claimed.trial.set_user_attr("error", error)
        self._tell(claimed, TrialState.FAIL)

    def stop(self, claimed: Claimed) -> None:
        """Have a trial be retried that ends with this command."""
        self._requeue(claimed.trial_id)

    def _tell(self, claimed: Claimed, state: TrialState, value: float | None = None) -> None:
        study = claimed.trial.study
        study.tell(claimed.trial, value, state, skip_if_finished=True)

    def _requeue(self, trial_id: int) -> None:
        self._set_error(trial_id, STOPPED)
        self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        self.retry(self.study, self.storage.get_trial(trial_id))

    def _set_error(self, trial_id: int, error: str) -> None:
        self.storage.set_trial_user_attr(trial_id, "error", error)

    def is_running(self, claimed: Claimed) -> bool:
        """Tell whether a trial is still this command's, which may have slept for too long."""
        return self.storage.get_trial(claimed.trial_id).state is TrialState.RUNNING

    def heartbeat(self, claimed: Iterable[Claimed]) -> None:
        """Show that trials are alive, and have those be retried that no longer are."""
        for one in claimed:
            self.storage.record_heartbeat(one.trial_id)
        fail_stale_trials(self.study)

    def is_over(self) -> bool:
        """Tell whether nothing waits or runs anywhere, and add what was lost if so."""
        self._enqueue_missing()
        return not self._due()

    def has_value(self) -> bool:
        """Tell whether a trial is complete."""
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    def _trial_id(self, number: int) -> int:
        return int(self.storage.get_trial_id_from_study_id_trial_number(self._id, number))


def check_same(sweep: Sweep, url: str, folder: Path) -> None:
    """Refuse, as far as it is known without the experiment, what is no sweep to go on with.

    Raises:
        InputError: A study of another sweep, or runs in the folder without a study.
    """
    has_runs = any(path.is_dir() for path in folder.glob("*/[0-9]*"))  # first: they begin last
    study = None
    if (folder / FILE).is_file() or not url.startswith("sqlite"):  # else it would be made
        with suppress(KeyError):  # it is a new one
            study = optuna.load_study(study_name=sweep.name, storage=connected(url))
    if study is not None:
        _compare(sweep, study)
    elif has_runs:
        raise InputError(
            f"--name {sweep.name}: {folder} has runs, but their study is gone from the database.\n"
            "Delete the folder, or give the sweep another --name."
        )


def _compare(sweep: Sweep, study: optuna.Study) -> None:
    """Raise ``InputError`` where a study is that of another sweep; the metric may be unknown."""
    there: dict[str, str] = study.user_attrs.get("sweep") or {}
    own = {**{name: there[name] for name in ("metric", "mode") if there}, **identity(sweep)}
    for name in {**own, **there} if there else ():
        if own.get(name) != there.get(name):
            given, known = own.get(name, "not given"), there.get(name, "none")
            raise InputError(
                f"{name}: {given}, but the sweep {sweep.name} has {known}.\n"
                "Give it another --name, or delete that one."
            )


def quiet() -> None:
    """Have Optuna not say what is said better, or is no news."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    warnings.filterwarnings("ignore", "The reported value is ignored")  # of a retried trial


def sampler_of(sweep: Sweep, ticket: int) -> samplers.BaseSampler:
    """Make the sampler of one trial, whose seed is a function of that of the sweep and the ticket.

    Raises:
        InputError: Optuna has no such sampler, or it refuses its arguments.
    """
    name = "RandomSampler" if sweep.sampler == "grid" else sweep.sampler
    seed = int(np.random.SeedSequence([sweep.seed, ticket]).generate_state(1)[0])
    # The points of a quasi-random sequence are those of one seed.
    own = {"seed": sweep.seed if name == "QMCSampler" else seed, "constant_liar": True}
    return _made(samplers, "sampler", name, sweep.sampler_args, own)


def pruner_of(sweep: Sweep) -> pruners.BasePruner:
    """Make the pruner of a sweep; raise ``InputError`` as ``sampler_of`` does."""
    return _made(pruners, "pruner", sweep.pruner or "NopPruner", sweep.pruner_args)


def ticket_of(trial: FrozenTrial) -> int:
    """Return the ticket of a trial; one that somebody has added by hand counts after all."""
    return int(trial.user_attrs.get("ticket", trial.number))


def counts(trial: FrozenTrial) -> bool:
    """Tell whether a trial is all that its ticket needs: it is due, or has ended on its own."""
    error = trial.user_attrs.get("error")
    return trial.state in (*DUE, *OVER) or error not in (None, STOPPED, REPEATED)


def _made(
    module: Any, kind: str, name: str, given: dict[str, Any], own: dict[str, Any] | None = None
) -> Any:
    """Make a sampler or a pruner by the name of its class; ``own`` as far as it takes them."""
    base = getattr(module, f"Base{kind.capitalize()}")
    classes = {n: c for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, base)}
    if name not in classes or name.startswith("Base"):
        hint = suggest(name, [n for n in classes if not n.startswith("Base")], True)
        raise InputError(f"{kind}: Optuna has no {name}. {hint}")
    takes = inspect.signature(classes[name]).parameters
    for key in [key for key in given if key not in takes]:
        raise InputError(f"{kind}.{key}: {name} has no such argument. {suggest(key, takes)}")
    chosen = {key: value for key, value in (own or {}).items() if key in takes}
    try:
        return classes[name](**{**chosen, **given})
    except (TypeError, ValueError, ImportError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{kind}: {name} cannot be made ({text}).") from None
