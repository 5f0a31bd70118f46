"""What the engine of sweeps is made of, without Optuna and without processes."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule

from lightkeel.callbacks.graceful_stop import GracefulStop
from lightkeel.callbacks.sweep_report import SweepReport
from lightkeel.runs import lock, status
from lightkeel.sweep import outcome, processes
from lightkeel.sweep.processes import GO_ON, STOP, Answers, environments
from tests.lightkeel.fitting import Line, fit, noisy_line

GPU, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"


@pytest.mark.parametrize(
    ("workers", "num_gpus", "environ", "expected"),
    [
        (1, 2, {}, [{}]),  # it has all there is
        (3, 2, {}, [{GPU: "0", THREADS: "2"}, {GPU: "1", THREADS: "2"}, {GPU: "0", THREADS: "2"}]),
        (2, 2, {GPU: "5,7", THREADS: "3"}, [{GPU: "5"}, {GPU: "7"}]),
        (2, 1, {GPU: "MIG-a", THREADS: "3"}, [{GPU: "MIG-a"}, {GPU: "MIG-a"}]),
        (2, 0, {}, [{THREADS: "4"}, {THREADS: "4"}]),
        (9, 0, {GPU: ""}, [{THREADS: "1"}] * 9),
    ],
)
def test_gpus_and_cores_are_dealt_out(
    workers: int,
    num_gpus: int,
    environ: dict[str, str],
    expected: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lightkeel.sweep.processes.count_cores", lambda: 8)
    assert environments(workers, num_gpus, environ) == expected


class LoggedLate(Line):
    """Logs a metric when the epoch has ended."""

    def on_train_epoch_end(self) -> None:
        self.log("late", float(self.current_epoch * 10))


def reports(folder: Path, model: LightningModule, metric: str, stop_at: int = -1) -> list[Any]:
    found: list[Any] = []

    def report(*values: Any) -> None:
        found.append(values)
        if values[0] == stop_at:
            os.kill(os.getpid(), signal.SIGHUP)

    callbacks = [SweepReport(metric, report), GracefulStop()]
    fit(folder, model, noisy_line(8, batch_size=4), *callbacks, max_epochs=3)
    return found


def test_epochs_are_reported(tmp_path: Path) -> None:
    found = reports(tmp_path, LoggedLate(2), "late")
    assert found == [(0, 0.0, False), (1, 10.0, False), (2, 20.0, True)]
    assert reports(tmp_path, LoggedLate(2), "missing") == []


def test_stopped_before_the_next_epoch(tmp_path: Path) -> None:
    model = LoggedLate(2)
    with pytest.raises(SystemExit) as stop:
        reports(tmp_path, model, "late", stop_at=1)
    assert stop.value.code == 129
    assert model.global_step == 4  # of two epochs


def test_answers_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append(number))
    ours, theirs = Pipe()
    answers = Answers(theirs)
    for answer in (GO_ON, STOP):
        asking = threading.Thread(target=answers.ask, args=(0, 1.5, False))
        asking.start()
        assert ours.recv() == (0, 1.5, False)
        assert asking.is_alive()
        ours.send(answer)
        asking.join(10)
        assert not asking.is_alive()
    answers.ask(1, 2.5, True)  # nobody answers any more
    assert ours.recv() == (1, 2.5, True)
    assert sent == [signal.SIGHUP]


def test_sweep_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    monkeypatch.setattr(os, "kill", lambda process, number: told.set())
    ours, theirs = Pipe()
    answers = Answers(theirs)
    ours.close()
    assert told.wait(10)
    answers.ask(0, 1.0, False)


def test_value_is_the_best_of_all_epochs(tmp_path: Path) -> None:
    rows = ["step,epoch,train/loss,val/loss", "3,0,5.0,", "3,0,,2.5", "6,1,4.0,nan", "9,2,,3.5"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "metrics.json").write_text('{"test/acc": 0.5, "test/loss": null, "val/loss": 9}')
    assert outcome.value_of(tmp_path, "val/loss", "min") == (2.5, None)
    assert outcome.value_of(tmp_path, "val/loss", "max") == (3.5, None)
    assert outcome.value_of(tmp_path, "test/acc", "max") == (0.5, None)
    assert outcome.value_of(tmp_path, "test/loss", "min")[1] == "test/loss is nan"
    assert outcome.value_of(tmp_path, "val/f1", "max")[1] == "val/f1 was never logged"


def test_reasons_of_failures(tmp_path: Path) -> None:
    log = tmp_path / "000.log"
    log.write_text("epoch 1\nerror: model.lr: -1 is less than 0.\n  Give more.\n\n")
    assert outcome.reason_of(2, tmp_path, log) == "model.lr: -1 is less than 0. Give more."
    log.write_text("error: of a run before\nTraceback\nRuntimeError: it broke\n")
    assert outcome.reason_of(-9, tmp_path, log) == "killed (SIGKILL); out of memory?"
    assert outcome.reason_of(-11, tmp_path, log) == "killed (SIGSEGV)"
    assert outcome.reason_of(143, tmp_path, log) == "stopped (SIGTERM)"
    assert outcome.reason_of(1, tmp_path, log) == "RuntimeError: it broke"
    assert outcome.reason_of(255, tmp_path, log) == "RuntimeError: it broke"
    assert outcome.reason_of(0, tmp_path, log) == "ended with status 0 before it was done"
    with pytest.raises(ValueError, match="it broke"), status.recorded(tmp_path, str):
        fails(tmp_path)
    assert outcome.reason_of(1, tmp_path, log) == "it broke"


def fails(folder: Path) -> None:
    status.begin(folder)
    raise ValueError("it broke\nin two lines")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("boom\n...\nthird", "ValueError: boom"),
        ("", "ValueError"),
    ],
)
def test_reason_is_the_line_of_the_exception(tmp_path: Path, said: str, reason: str) -> None:
    log = tmp_path / "000.log"
    try:
        raise ValueError(said) from OSError("before it")
    except ValueError:
        log.write_text(f"{traceback.format_exc()}\n\n")
    assert outcome.reason_of(1, tmp_path, log) == reason
    log.write_text("".join(f"[rank1]: {line}\n" for line in log.read_text().splitlines()))
    assert outcome.reason_of(1, tmp_path, log) == reason


def test_reasons_that_cannot_be_read(tmp_path: Path) -> None:
    assert outcome.reason_of(1, tmp_path, tmp_path / "gone.log") == "ended with status 1"
    assert outcome.reason_of(-40, tmp_path, tmp_path) == "killed (signal 40)"
    assert outcome.reason_of(168, tmp_path, tmp_path) == "ended with status 168"
    (tmp_path / "metrics.csv").write_text("step,epoch,val/loss\n3,0,0.5\n6,1,0.2e")
    assert outcome.value_of(tmp_path, "val/loss", "min")[1] == (
        "val/loss cannot be read (could not convert string to float: '0.2e')"
    )


@pytest.mark.parametrize(
    ("function", "argument", "said"),
    [
        (sys.exit, 3, "ended with status 3"),
        (os._exit, 0, "ended with status 0"),
        (signal.raise_signal, signal.SIGKILL, "killed (SIGKILL)"),
    ],
)
def test_process_that_does_not_answer(
    function: Any,
    argument: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def forked(function: Any, theirs: Any, *args: Any) -> Any:
        process = multiprocessing.get_context("fork").Process(target=function, args=(theirs, *args))
        process.start()
        theirs.close()
        return process

    monkeypatch.setattr(processes, "_started", forked)
    with pytest.raises(SystemExit) as exit_:
        processes.call(function, argument)
    assert exit_.value.code == 1
    assert capsys.readouterr().err == f"error: the look at the experiment: {said}.\n"


def test_ways_are_made_for_runs(tmp_path: Path) -> None:
    """What is left of a run that had no checkpoint is removed, unless it is still at work."""
    run = tmp_path / "000"
    assert outcome.make_way(run)
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt.part").touch()
    held = lock.take(run)
    assert not outcome.make_way(run)
    lock.release(run, held)
    (run / "checkpoints/last.ckpt").touch()
    assert outcome.make_way(run)
    assert run.is_dir()
    (run / "checkpoints/last.ckpt").unlink()
    assert outcome.make_way(run)
    assert not run.exists()


def test_run_that_is_done(tmp_path: Path) -> None:
    assert not outcome.is_done(tmp_path / "none")
    (tmp_path / "metrics.json").write_text("{}")
    assert outcome.is_done(tmp_path)
