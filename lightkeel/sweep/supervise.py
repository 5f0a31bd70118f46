"""The command of a sweep at work: it claims trials, runs them in its slots, and tells their ends.

One thread, which waits for reports and ends of runs, and without PyTorch.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError

from ..errors.checks import warn
from ..project import Project
from ..runs import lock
from . import database, outcome, study as studies
from .plan import Probed, Sweep, args_of
from .processes import STATUSES, RunProcess, call, environments
from .progress import STOPPING, Progress, snapshot
from .results import write_trials

LOOK_EVERY_S = 0.5  # for a lock that the run of a killed command still holds
SAVE_S = 60.0  # to finish a step and write a checkpoint in, where this command has crashed
# How a run ends at a signal to stop: saved, or before it heeds signals.
INTERRUPTED = {*STATUSES.values(), *(-number for number in STATUSES)}


@dataclass
class Work:
    """A trial of this command: its runs, one for each seed."""

    claimed: studies.Claimed
    seeds: list[int]  # that have not begun
    running: dict[int, tuple[int, RunProcess]] = field(default_factory=dict)  # slot, process
    values: dict[int, float] = field(default_factory=dict)
    error: str | None = None
    is_pruned: bool = False
    is_lost: bool = False  # to another command, which took it for dead

    @property
    def is_decided(self) -> bool:
        """Whether further seeds would tell nothing."""
        return self.error is not None or self.is_pruned or self.is_lost


def look(project: Project, sweep: Sweep) -> Probed:
    """Find out, in a process of its own, whether an experiment can be searched so."""
    found: Probed = call(_look, project, sweep)
    return found


def _look(project: Project, sweep: Sweep) -> Probed:
    from .probe import look  # PyTorch

    return look(project, sweep)


class Supervisor:
    """Runs the trials of a study until none is left.

    Args:
        project: The project.
        sweep: What is searched, with its metric and mode.
        probed: What the experiment says of itself.
        folder: The sweep's.
        study: Where the trials are claimed.
        workers: Runs at once.
        progress: Shows how it gets on.
    """

    def __init__(
        self,
        project: Project,
        sweep: Sweep,
        probed: Probed,
        folder: Path,
        study: studies.SweepStudy,
        workers: int,
        progress: Progress,
    ) -> None:
        self.project, self.sweep, self.probed = project, sweep, probed
        self.folder, self.study, self.progress = folder, study, progress
        self.environments = environments(workers, probed.num_gpus)
        self.free = [*range(workers)]
        self.work: list[Work] = []
        self.status = 0  # to exit with, once a signal has come
        self.end = time.monotonic() + (sweep.max_time_s or float("inf"))
        self.next_beat, self.is_news = 0.0, True
        self.waits_for: set[Path] = set()  # folders that are locked
        self.interrupted: set[Path] = set()  # by others than this command
        self.wakes, self.waker = os.pipe()

    def run(self) -> int:
        """Run all trials, and return the exit status: 0, 1 without the database, or a signal's."""
        with self._heeding_signals():
            try:
                while self._step():
                    pass
            except database.ERRORS as error:
                warn(f"the database of the sweep is gone ({database.first_line(error)}): stopping.")
                return 1
            finally:
                self._end_all()
        return self.status

    def _step(self) -> bool:
        """Tell what has ended, begin what can begin, and wait for news; False: all is over."""
        self._settle()
        while self.free and not self.status and self._begin_next():
            self._settle()
        if self.is_news:
            self._show()
        if not self.work and (self.status or self._is_late or self.study.is_over()):
            return False
        self._wait()
        if time.monotonic() >= self.next_beat:
            self._beat()
        return True

    @property
    def _is_late(self) -> bool:
        return time.monotonic() >= self.end

    def _begin_next(self) -> bool:
        """Begin a run, or claim a trial; False: there is none to be had now."""
        for work in self.work:
            one_by_one = self.sweep.pruner is not None and not work.values
            for seed in [] if one_by_one and work.running else work.seeds[:]:
                if self._begin(work, seed):
                    return True
        if self._is_late or len(self.work) >= len(self.environments):
            return False
        claimed = self.study.claim()
        if claimed is None and self.study.num_tickets is None:
            self.study.add()
            claimed = self.study.claim()
        if claimed is not None:
            self.is_news = True
            first = self.probed.seed
            self.work.append(Work(claimed, [*range(first, first + self.sweep.seeds)]))
            names = [self._name(self.work[-1], seed) for seed in self.work[-1].seeds]
            claimed.trial.set_user_attr("runs", [f"{self.probed.experiment}/{n}" for n in names])
        return claimed is not None

    def _begin(self, work: Work, seed: int) -> bool:
        """Begin a run, resume it, or read what it came to; False: it is still at work."""
        name = self._name(work, seed)
        folder = self.folder / self.probed.experiment / name
        is_own = f"{self.probed.experiment}/{name}" in work.claimed.runs
        if folder.exists() and not is_own:
            work.seeds.clear()
            work.error = f"{folder} is of another sweep: delete it, or give this one another --name"
        elif outcome.is_done(folder):
            work.seeds.remove(seed)
            self._read(work, seed, folder)
        elif not outcome.make_way(folder):
            if folder not in self.waits_for:
                self.waits_for.add(folder)
                warn(f"waiting for the run in {folder} to end ({lock.holder(folder)}).")
            return False
        else:
            work.seeds.remove(seed)
            work.claimed.runs.append(f"{self.probed.experiment}/{name}")
            slot = self.free.pop(0)
            work.running[seed] = slot, self._started(work, seed, name, self.environments[slot])
        return True

    def _started(self, work: Work, seed: int, name: str, environment: dict[str, str]) -> RunProcess:
        args = [
            *args_of(self.sweep, work.claimed.point),
            *([f"--seed_everything={seed}"] if self.sweep.seeds > 1 else []),
            *(f"--runs_dir={self.folder}", f"--run_name={name}", "--resume=auto"),
        ]
        log = self.folder / "logs" / f"{name}.log"
        return RunProcess(self.project, args, self.probed.metric, log, environment)

    def _name(self, work: Work, seed: int) -> str:
        return f"{work.claimed.ticket:03}" + (f"-s{seed}" if self.sweep.seeds > 1 else "")

    def _wait(self) -> None:
        """Wait for reports, ends of runs and signals, until the next sign of life is due."""
        runs = [(work, seed) for work in self.work for seed in work.running]
        processes = [work.running[seed][1] for work, seed in runs]
        is_waiting = any(work.seeds for work in self.work) and self.free
        left = max(self.next_beat - time.monotonic(), 0.0)
        listened: list[Any] = [self.wakes, *(p.connection for p in processes)]
        listened += [process.sentinel for process in processes]
        if self.wakes in wait(listened, min(left, LOOK_EVERY_S) if is_waiting else left):
            os.read(self.wakes, 64)
            self.is_news = True
            if not self.progress.is_live:
                print(STOPPING, file=sys.stderr, flush=True)
        if self.status:
            for process in processes:
                process.stop()
        for (work, seed), process in zip(runs, processes, strict=True):
            is_alive = process.process.is_alive()  # or else it may still report, and end
            for report in process.reports():
                self._answer(work, seed, process, *report)
            if not is_alive:
                self._ended(work, seed)

    def _answer(
        self, work: Work, seed: int, process: RunProcess, epoch: int, value: float, is_last: bool
    ) -> None:
        """Answer a report; the first seed's are those that a trial is pruned by."""
        if seed == self.probed.seed and not work.is_decided:
            try:
                work.claimed.trial.report(value, epoch)
                prunes = not is_last and not self.status
                work.is_pruned = prunes and work.claimed.trial.should_prune()
            except UpdateFinishedTrialError:
                work.is_lost = True
        if work.is_decided:
            process.stop()
        else:
            process.go_on()

    def _ended(self, work: Work, seed: int) -> None:
        slot, process = work.running.pop(seed)
        self.free.append(slot)
        status, name = process.end(), self._name(work, seed)
        folder, log = self.folder / self.probed.experiment / name, self.folder / f"logs/{name}.log"
        is_asked = self.status or work.is_decided
        if status == 0 and outcome.is_done(folder):
            self._read(work, seed, folder)
        elif status in INTERRUPTED and (is_asked or folder not in self.interrupted):
            # To be resumed: where a job sends a signal to all its processes, this one may get it
            # last. But once: what comes again is sent by the run itself, or is meant for it.
            work.seeds.insert(0, seed)
            self.interrupted.add(folder)
        elif not work.is_decided:
            work.error = outcome.reason_of(status, folder, log)

    def _read(self, work: Work, seed: int, folder: Path) -> None:
        value, wrong = outcome.value_of(folder, self.probed.metric, self.probed.mode)
        work.values |= {seed: value} if wrong is None else {}
        work.error = work.error or wrong

    def _settle(self) -> None:
        """Have the other runs of a trial stop that has ended, and tell how once none is left."""
        for work in self.work[:]:
            for _, process in work.running.values() if work.is_decided else ():
                process.stop()
            if not (work.running or (work.seeds and not work.is_decided and not self.status)):
                self._tell(work)

    def _tell(self, work: Work) -> None:
        """Tell the study how a trial ended, or that it is to be retried."""
        self.work.remove(work)
        self.is_news = True
        try:
            if work.error is not None:
                self.study.fail(work.claimed, work.error)
            elif work.is_pruned:
                self.study.prune(work.claimed)
            elif not work.seeds and not work.is_lost:
                self.study.complete(work.claimed, [work.values[s] for s in sorted(work.values)])
            elif not work.is_lost:
                self.study.stop(work.claimed)
        except UpdateFinishedTrialError:
            work.is_lost = True
        if work.is_lost:
            warn(f"trial {work.claimed.ticket:03} was taken for dead, and is run again.")
        write_trials(self.study.study, self.sweep, self.folder)

    def _beat(self) -> None:
        """Show that the trials are alive, and give up those that are no longer this command's."""
        self.is_news = True
        self.next_beat = time.monotonic() + studies.HEARTBEAT_S
        self.study.heartbeat([work.claimed for work in self.work])
        for work in self.work:
            work.is_lost = work.is_lost or not self.study.is_running(work.claimed)

    def _show(self) -> None:
        self.is_news = False
        now = snapshot(self.study.study, self.sweep, self.end - time.monotonic())
        self.progress.update(now, STOPPING if self.status else None)

    @contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in STATUSES}
        for number in STATUSES:
            if before[number] is not signal.SIG_IGN:  # as SIGHUP is under nohup
                signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Have the loop stop, which says so; the second time end at once, whatever is under way.

        That is as good as ``kill -9``: what the study has not been told is retried.
        """
        if self.status:
            for process in self._processes():
                process.kill()
            sys.exit(self.status)
        self.status = STATUSES[signal.Signals(number)]
        os.write(self.waker, b"!")

    def _processes(self) -> list[RunProcess]:
        return [process for work in self.work for _, process in work.running.values()]

    def _end_all(self) -> None:
        """Have the runs save and end that there are yet, without a word to the database."""
        until = time.monotonic() + SAVE_S
        for process in self._processes():
            process.stop()
        for process in self._processes():
            process.end(max(until - time.monotonic(), 0.0))
