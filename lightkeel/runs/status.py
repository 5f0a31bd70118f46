"""How a run gets on, or how it ended: its ``status.json``."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from . import lock
from .files import read_json, write_json

NAME = "status.json"
STATES = ("running", "done", "failed", "stopped")
KILLED = "killed"  # what is wrong with a run whose process is gone without a word


class Status(NamedTuple):
    """What ``status.json`` holds; times are UTC."""

    state: str  # of `STATES`
    started: str
    session_started: str  # when it was last resumed
    ended: str | None  # None while it is running
    seconds: float  # before this session, and in it once that has ended
    error: str | None  # one line


class RunState(NamedTuple):
    """How a run gets on as far as can be told from outside; ``seconds`` up to now."""

    state: str
    error: str | None = None
    seconds: float | None = None
    since: float | None = None  # start of the last session, Unix time


def begin(folder: Path) -> None:
    """Write that a run is under way."""
    before, now = read(folder), utc_now()
    seconds = _spent(folder, before) if before else 0.0
    _write(folder, Status("running", before.started if before else now, now, None, seconds, None))


@contextmanager
def recorded(
    folder: Path, explain: Callable[[BaseException], str | None]
) -> Iterator[Callable[[], None]]:
    """Write how a run ends that has begun in this block; yields what to call when it is done."""
    before = read(folder)

    def end(state: str, error: str | None = None) -> None:
        status = read(folder)
        has_begun = status != before
        if status and (has_begun or state == "done"):  # there may have been nothing left to train
            seconds = round(_spent(folder, status, time.time() if has_begun else None), 3)
            line = next(iter((error or "").strip().splitlines()), None)
            _write(folder, Status(state, *status[1:3], utc_now(), seconds, line))

    try:
        yield lambda: end("done")
    except (SystemExit, KeyboardInterrupt) as stop:
        code = stop.code if isinstance(stop, SystemExit) else None
        was_asked = code in (None, 0) or (isinstance(code, int) and code > 128)
        end("stopped" if was_asked else "failed", None if was_asked else str(code))
        raise
    except Exception as error:
        end("failed", explain(error) or f"{type(error).__name__}: {error}")
        raise


def read(folder: Path) -> Status | None:
    """Read the status of a run; None where there is none that can be understood."""
    content = read_json(folder / NAME)
    try:
        found = Status(*(content[name] for name in Status._fields))
        _unix(found.session_started)
        is_sound = found.state in STATES and 0 <= found.seconds < float("inf")
        return found if is_sound and isinstance(found.error, (str, type(None))) else None
    except (LookupError, TypeError, ValueError, OverflowError):
        return None  # damaged, or another program's


def look(folder: Path) -> RunState:
    """Find out how a run gets on; a process that was killed has not said so."""
    status, metrics = read(folder), folder / "metrics.json"  # there once a run is done
    if status is None:
        return RunState("done" if metrics.is_file() else "stopped")
    state, error, until = status.state, status.error, None
    if state == "running" and metrics.is_file():
        state, until = "done", changed(metrics)
    elif state == "running" and lock.is_held(folder) is False:
        state, error = "failed", KILLED
    elif state == "running":
        until = time.time()
    return RunState(state, error, _spent(folder, status, until), _unix(status.session_started))


def _spent(folder: Path, status: Status, until: float | None = None) -> float:
    """Count the seconds of all sessions, the last ``until`` a Unix time or its last checkpoint."""
    if status.state != "running":
        return status.seconds
    until = changed(folder / "checkpoints/last.ckpt") if until is None else until
    return status.seconds + max(until - _unix(status.session_started), 0.0)


def utc_now() -> str:
    """Write the time as in ISO 8601, with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def changed(path: Path) -> float:
    """Tell when a file was written last, Unix time; 0 where it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _write(folder: Path, status: Status) -> None:
    with suppress(OSError):  # a full disk ends a run where its results are written, and not here
        write_json(folder / NAME, status._asdict())
