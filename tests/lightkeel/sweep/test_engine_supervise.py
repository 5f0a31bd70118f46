"""The command of a sweep at work, with stand-ins for the processes of its runs."""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.extras
pytest.importorskip("optuna", reason="needs optuna")

from lightkeel.runs import lock  # noqa: E402
from lightkeel.sweep import study as studies, supervise  # noqa: E402
from lightkeel.sweep.plan import Probed  # noqa: E402
from lightkeel.sweep.progress import STOPPING, Progress  # noqa: E402
from lightkeel.sweep.study import SweepStudy  # noqa: E402
from src import PROJECT  # noqa: E402
from tests.lightkeel.sweep.test_engine_study import planned  # noqa: E402

SIGTERM = partial(os.kill, os.getpid(), signal.SIGTERM)
METRICS = "step,epoch,val/loss\n3,0,0.5\n"


class Run:
    """Stands in for a ``RunProcess``: it goes on until it is asked to stop, or ends at once."""

    begun: list["Run"]
    ends: list[int]  # statuses with which runs end at once, one after another

    def __init__(self, project: Any, args: list[str], metric: str, log: Path, env: Any) -> None:
        self.folder = log.parents[1] / "tiny" / log.stem
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (self.folder / "checkpoints/last.ckpt").touch()
        self.connection, self.theirs = Pipe()
        self.sentinel, self.ended = Pipe()
        self.process, self.done = self, list[str]()
        self.status: int | None = None
        self.begun.append(self)
        if self.ends:
            self.finish(self.ends.pop(0))

    def finish(self, status: int) -> None:
        if status == 0:
            (self.folder / "metrics.csv").write_text(METRICS)
            (self.folder / "metrics.json").write_text("{}")
        self.status = status
        self.ended.close()

    def is_alive(self) -> bool:
        return self.status is None

    def reports(self) -> list[Any]:
        return []

    def stop(self) -> None:
        self.done.append("stop")
        if self.is_alive():
            self.finish(143)

    def kill(self) -> None:
        self.done.append("kill")

    def end(self, timeout_s: float | None = None) -> int:
        self.done.append("end" if timeout_s is None else f"end in {timeout_s:.0f} s")
        return self.status or 0


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    studies.quiet()
    monkeypatch.setattr(supervise, "RunProcess", Run)
    monkeypatch.setattr(Run, "begun", [], raising=False)
    monkeypatch.setattr(Run, "ends", [], raising=False)
    monkeypatch.setattr(studies, "HEARTBEAT_S", 0.01)
    # What waits for ever fails, and does not hang.
    beats = iter(range(200))
    beat = SweepStudy.heartbeat
    monkeypatch.setattr(SweepStudy, "heartbeat", lambda *args: (next(beats), beat(*args)))


def supervisor(folder: Path, **settings: Any) -> supervise.Supervisor:
    sweep = planned(**{"num_trials": 2, **settings})
    study = SweepStudy(sweep, "sqlite://", is_alone=True)
    probed = Probed("val/loss", "min", 0, "tiny", 0)
    return supervise.Supervisor(PROJECT, sweep, probed, folder, study, 1, Progress())


def after(method: Callable[..., Any], then: Callable[[], None]) -> Callable[..., Any]:
    """Have something happen when a method has returned for the first time."""
    calls = count()

    def called(*args: Any) -> Any:
        result = method(*args)
        if next(calls) == 0:
            then()
        return result

    return called


def outcomes(made: supervise.Supervisor) -> list[tuple[int, str, Any]]:
    """Each trial with its ticket, state and error."""
    trials = made.study.study.trials
    return [(t.user_attrs["ticket"], t.state.name, t.user_attrs.get("error")) for t in trials]


RETRIED = [(0, "FAIL", "stopped"), (1, "WAITING", None), (0, "WAITING", "stopped")]


def test_all_trials_are_run(tmp_path: Path) -> None:
    made = supervisor(tmp_path)
    Run.ends[:] = [0, 1]
    assert made.run() == 0
    assert outcomes(made) == [(0, "COMPLETE", None), (1, "FAIL", "ended with status 1")]
    assert made.study.study.best_value == 0.5
    assert [run.done for run in Run.begun] == [["end"], ["end"]]


def test_signal_after_a_claim(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The trial has not begun: it is put back."""
    made = supervisor(tmp_path)
    made.study.claim = after(made.study.claim, SIGTERM)  # type: ignore[method-assign]
    assert made.run() == 143
    assert Run.begun == []
    assert outcomes(made) == RETRIED
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_signal_while_a_trial_waits_for_a_lock(tmp_path: Path) -> None:
    run = tmp_path / "tiny/000"
    run.mkdir(parents=True)
    held = lock.take(run)
    made = supervisor(tmp_path)
    made.study.storage.set_trial_user_attr(1, "runs", ["tiny/000"])  # as of one that was killed
    made.study.heartbeat = after(made.study.heartbeat, SIGTERM)  # type: ignore[method-assign]
    assert made.run() == 143
    lock.release(run, held)
    assert made.waits_for == {run}
    assert Run.begun == []
    assert outcomes(made) == RETRIED


def test_signal_at_work(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = supervisor(tmp_path)
    made.study.heartbeat = after(made.study.heartbeat, SIGTERM)  # type: ignore[method-assign]
    assert made.run() == 143
    assert outcomes(made) == RETRIED
    assert [run.done for run in Run.begun] == [["stop", "end"]]
    assert capfd.readouterr().err == f"{STOPPING}\n"


def test_signal_on_a_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The live lines say it, and nothing is written in the middle of them."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    made = supervisor(tmp_path)
    made.study.heartbeat = after(made.study.heartbeat, SIGTERM)  # type: ignore[method-assign]
    with made.progress:
        assert made.run() == 143
    shown, told = capfd.readouterr()
    assert told == ""
    live, last = f"0 failed of 2 trials\n{STOPPING}", shown.split("\r")[-1]
    assert shown.count(STOPPING) == shown.count(live) > 0
    assert "0 failed of 2 trials\n" in last
    assert STOPPING not in last


def test_second_signal(tmp_path: Path) -> None:
    """The runs are killed at once, and the trial is retried as after ``kill -9``."""

    def twice() -> None:
        SIGTERM()
        SIGTERM()

    made = supervisor(tmp_path)
    made.study.heartbeat = after(made.study.heartbeat, twice)  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as exit_:
        made.run()
    assert exit_.value.code == 143
    assert Run.begun[0].done[0] == "kill"
    assert outcomes(made) == [(0, "RUNNING", None), (1, "WAITING", None)]


def test_crash_of_the_command(tmp_path: Path) -> None:
    """Its runs save first, in a minute at most."""

    def crash() -> None:
        raise BrokenPipeError

    made = supervisor(tmp_path)
    made.study.heartbeat = after(made.study.heartbeat, crash)  # type: ignore[method-assign]
    with pytest.raises(BrokenPipeError):
        made.run()
    assert [run.done for run in Run.begun] == [["stop", "end in 60 s"]]


def test_run_that_gets_a_signal_before_the_command(tmp_path: Path) -> None:
    """It is resumed; one that ends so again has failed."""
    made = supervisor(tmp_path)
    Run.ends[:] = [143, 0, -1, 143]
    assert made.run() == 0
    assert [run.folder.name for run in Run.begun] == ["000", "000", "001", "001"]
    assert outcomes(made) == [(0, "COMPLETE", None), (1, "FAIL", "stopped (SIGTERM)")]


def test_run_that_ends_before_it_is_done(tmp_path: Path) -> None:
    made = supervisor(tmp_path)
    Run.ends[:] = [0, 0]
    (tmp_path / "tiny/001").mkdir(parents=True)
    made.study.storage.set_trial_user_attr(2, "runs", ["tiny/001"])

    def no_metrics(self: Run, status: int) -> None:
        finish(self, status)
        if self.folder.name == "001":
            (self.folder / "metrics.json").unlink()

    finish = Run.finish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finish", no_metrics)
        assert made.run() == 0
    error = "ended with status 0 before it was done"
    assert outcomes(made) == [(0, "COMPLETE", None), (1, "FAIL", error)]


@pytest.mark.parametrize(("is_last", "state"), [(False, "PRUNED"), (True, "COMPLETE")])
def test_last_epoch_is_not_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_last: bool, state: str
) -> None:
    """Nothing would be saved by it, and the trial would have no value."""
    told = [(0, 0.5, is_last)]
    monkeypatch.setattr(Run, "reports", lambda run: [told.pop()] if told else [])
    monkeypatch.setattr(Run, "go_on", lambda run: run.finish(0), raising=False)
    pruner: dict[str, Any] = {"pruner": "ThresholdPruner", "pruner_args": {"upper": 0.1}}
    made = supervisor(tmp_path, num_trials=1, **pruner)
    assert made.run() == 0
    assert outcomes(made) == [(0, state, None)]
