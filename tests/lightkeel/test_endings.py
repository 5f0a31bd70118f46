"""However a run ends: its exit status, its state and what ``--resume auto`` does agree."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from lightkeel.callbacks.plots import Plots
from lightkeel.runs import status
from lightkeel.runs.loggers import TensorBoard
from src.train import main as train
from tests.lightkeel.conftest import TINY
from tests.lightkeel.tiny import TinyModel

FULL = OSError(errno.ENOSPC, "No space left on device")
ARGS = [*TINY, "--trainer.log_every_n_steps", "1"]

Act = Callable[[], None]


def send(name: str) -> Act:
    return lambda: os.kill(os.getpid(), getattr(signal, name))


def fail(error: Exception) -> Act:
    def act() -> None:
        raise error

    return act


def fill(file: str) -> Act:
    """Have a file of the run, or what is to become one, be on a disk that is full."""

    def act() -> None:
        (folder,) = Path.cwd().glob("runs/tiny/*")
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to("/dev/full")

    return act


def acting(function: Any, act: Act, is_due: Callable[..., bool] = lambda *_: True) -> Any:
    """Wrap a function so that it acts before it is called, once."""
    acted: list[bool] = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not acted and is_due(*args, *kwargs.values()):
            acted.append(True)
            act()
        return function(*args, **kwargs)

    return wrapped


def in_step(act: Act, patch: pytest.MonkeyPatch) -> None:
    """In the second step of the second epoch: there is a checkpoint."""
    step = acting(TinyModel.training_step, act, lambda model, *_: model.trainer.global_step == 4)
    patch.setattr(TinyModel, "training_step", step)


def in_test(act: Act, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TinyModel, "test_step", acting(TinyModel.test_step, act))


def in_pictures(act: Act, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Plots, "draw", acting(Plots.draw, act))


def in_tensorboard(act: Act, patch: pytest.MonkeyPatch) -> None:
    scalar = acting(SummaryWriter.add_scalar, act, lambda *args: args[3] == 4)
    patch.setattr(SummaryWriter, "add_scalar", scalar)


def in_logger_after_training(act: Act, patch: pytest.MonkeyPatch) -> None:
    logged = acting(TensorBoard.log_metrics, act, lambda _, row, *rest: "test/acc" in row)
    patch.setattr(TensorBoard, "log_metrics", logged)


def in_report(act: Act, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TinyModel, "report", acting(lambda model: {}, act), raising=False)


RUNS = Path("runs/tiny/run")
STOPPED = (
    "stopping after this step; once more to stop at once\n"
    f"stopped: {RUNS}\nresume: python -m src.train --resume {RUNS}\n"
)
STOPPED_AT_ONCE = STOPPED.partition("\n")[2]
NO_ROOM = (
    f"cannot be written (No space left on device).\n  Make room, then resume: --resume {RUNS}\n"
)
KEPT = "; nothing else depends on it.\n"

# Where, what, exit status (1: a crash), state, and what is said.
ENDINGS: dict[str, tuple[Callable[[Act, pytest.MonkeyPatch], None], Act, int, str, str]] = {
    "Ctrl-C": (in_step, send("SIGINT"), 130, "stopped", STOPPED),
    "SIGTERM": (in_step, send("SIGTERM"), 143, "stopped", STOPPED),
    "SIGUSR1": (in_step, send("SIGUSR1"), 143, "stopped", STOPPED),
    "SIGHUP": (in_step, send("SIGHUP"), 129, "stopped", STOPPED),
    "Ctrl-C in the test": (in_test, send("SIGINT"), 130, "stopped", STOPPED_AT_ONCE),
    "SIGTERM in the test": (in_test, send("SIGTERM"), 143, "stopped", STOPPED_AT_ONCE),
    "SIGHUP in the test": (in_test, send("SIGHUP"), 129, "stopped", STOPPED_AT_ONCE),
    "Ctrl-C in pictures": (in_pictures, send("SIGINT"), 130, "stopped", STOPPED_AT_ONCE),
    "SIGTERM in pictures": (in_pictures, send("SIGTERM"), 143, "stopped", STOPPED_AT_ONCE),
    "crash": (in_step, fail(RuntimeError("broken")), 1, "failed", ""),
    "crash in the test": (in_test, fail(RuntimeError("broken")), 1, "failed", ""),
    "full disk, rows": (
        in_step,
        fill("metrics.csv"),
        2,
        "failed",
        f"error: {RUNS}/metrics.csv {NO_ROOM}",
    ),
    "full disk, results": (
        in_pictures,
        fill("metrics.json.part"),
        2,
        "failed",
        f"error: {RUNS}/metrics.json {NO_ROOM}",
    ),
    "full disk, TensorBoard": (
        in_tensorboard,
        fail(FULL),
        2,
        "failed",
        f"error: a file in {RUNS} {NO_ROOM}",
    ),
    "full disk, pictures": (
        in_pictures,
        fail(FULL),
        0,
        "done",
        f"warning: callbacks.plots failed (OSError: {FULL}){KEPT}",
    ),
    "pictures": (
        in_pictures,
        fail(RuntimeError("no\ndevice")),
        0,
        "done",
        f"warning: callbacks.plots failed (RuntimeError: no){KEPT}",
    ),
    "logger": (
        in_logger_after_training,
        fail(ConnectionError("gone")),
        0,
        "done",
        f"warning: TensorBoard failed (ConnectionError: gone){KEPT}",
    ),
    "report": (
        in_report,
        fail(KeyError("x")),
        0,
        "done",
        f"warning: TinyModel.report failed (KeyError: 'x'){KEPT}",
    ),
    "nothing": (in_report, lambda: None, 0, "done", ""),
}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # off in a background job
    yield
    signal.signal(signal.SIGINT, before)


def exit_status(*args: str) -> int:
    try:
        return train([*ARGS, *args])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        return -1  # a shell would take it for a death by signal
    except Exception:  # noqa: BLE001
        return 1


# As Ctrl-C at the same place, but for the status.
LIKE_OTHERS = [
    "SIGUSR1",
    "SIGHUP",
    "SIGTERM in the test",
    "SIGHUP in the test",
    "SIGTERM in pictures",
    "Ctrl-C in pictures",
]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in LIKE_OTHERS)) for n in ENDINGS],
)
def test_endings(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, act, code, state, said = ENDINGS[name]
    with monkeypatch.context() as patch:
        place(act, patch)
        drawn = ["--callbacks.plots", "Plots"] if place is in_pictures else []
        assert exit_status("--run_name", "run", *drawn) == code
    lines = capfd.readouterr().err.splitlines(True)
    assert "".join(line for line in lines if not line.startswith("INFO: ")) == said  # Lightning's
    assert status.look(RUNS).state == state
    assert (RUNS / "metrics.json").exists() == (state == "done") == (code == 0)
    if (RUNS / "metrics.csv").is_symlink():
        (RUNS / "metrics.csv").unlink()  # there is room again
    assert exit_status("--resume", "auto") == 0
    runs = list(RUNS.parent.iterdir())
    assert [status.look(run).state for run in runs] == ["done"] * (2 if state == "done" else 1)
    assert all((run / "metrics.json").exists() for run in runs)


@pytest.mark.parametrize("signal_", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_stopped_before_the_first_step(signal_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to resume, and nothing is left."""
    configure = acting(TinyModel.configure_optimizers, send(signal_))
    monkeypatch.setattr(TinyModel, "configure_optimizers", configure)
    expected = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}[signal_]
    assert exit_status() == expected
    assert list(Path.cwd().iterdir()) == []
