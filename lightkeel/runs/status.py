"""How a run gets on, or how it ended: its ``status.json``."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import NamedTuple

from . import lock
from .files import read_json, write_json

NAME = "status.json"
LAST = "checkpoints/last.ckpt"
STATES = ("running", "done", "failed", "stopped")
KILLED = "killed"  # what is wrong with a run whose process is gone without a word
KINDS: dict[str, tuple[type, ...]] = {
    "state": (str,),
    "started": (str,),
    "session_started": (str,),
    "ended": (str, type(None)),
    "seconds": (int, float),
    "error": (str, type(None)),
}


class Status(NamedTuple):
    """What ``status.json`` holds.

    Args:
        state: One of ``STATES``.
        started: When the run began first, UTC.
        session_started: When it was last resumed.
        ended: When it ended; None while it is running.
        seconds: Spent before this session, and in it once that has ended.
        error: One line.
    """

    state: str
    started: str
    session_started: str
    ended: str | None
    seconds: float
    error: str | None


class Progress(NamedTuple):
    """How a run gets on as far as can be told from outside; ``seconds`` up to now."""

    state: str
    error: str | None = None
    seconds: float | None = None
    since: float | None = None  # start of the last session, Unix time


def begin(folder: Path) -> None:
    """Write that a run is under way."""
    before, now = read(folder), utc_now()
    seconds = spent(folder, before) if before else 0.0
    started = before.started if before else now
    _write(folder, Status("running", started, now, None, seconds, None))


@contextmanager
def recorded(
    folder: Path, explain: Callable[[BaseException], str | None]
) -> Iterator[Callable[[], None]]:
    """Write how a run ends that has begun in this block, and which nobody else writes to.

    Args:
        folder: Folder of the run.
        explain: Says what an exception means to the person who gave the input, or None.

    Yields:
        What to call when the run is done.
    """
    end = partial(_end, folder, read(folder))
    try:
        yield partial(end, "done")
    except SystemExit as stop:
        was_asked = stop.code in (None, 0) or (isinstance(stop.code, int) and stop.code > 128)
        end("stopped" if was_asked else "failed", None if was_asked else str(stop.code))
        raise
    except KeyboardInterrupt:
        end("stopped")
        raise
    except Exception as error:
        end("failed", explain(error) or f"{type(error).__name__}: {error}")
        raise


def _end(folder: Path, before: Status | None, state: str, error: str | None = None) -> None:
    status = read(folder)
    if status is None:
        return
    has_begun = status != before
    if has_begun or state == "done":  # there may have been nothing left to train
        # By now the test has written metrics, but no checkpoint.
        until = time.time() if has_begun else changed(folder / LAST)
        seconds = spent(folder, status, until)
        lines = (error or "").strip().splitlines()
        ended = status._replace(state=state, ended=utc_now(), seconds=round(seconds, 3))
        _write(folder, ended._replace(error=lines[0] if lines else None))


def read(folder: Path) -> Status | None:
    """Read the status of a run; None where there is none that can be understood."""
    content = read_json(folder / NAME)
    try:
        _unix(content["session_started"])
        is_sound = content["state"] in STATES and 0 <= content["seconds"] < float("inf")
        if is_sound and all(isinstance(content[name], kinds) for name, kinds in KINDS.items()):
            return Status(**{name: content[name] for name in Status._fields})
    except (LookupError, TypeError, ValueError, OverflowError):
        pass  # damaged, or another program's
    return None


def look(folder: Path) -> Progress:
    """Find out how a run gets on; a process that was killed has not said so."""
    status = read(folder)
    metrics = folder / "metrics.json"  # there once a run is done
    if status is None:
        return Progress("done" if metrics.is_file() else "stopped")
    state, error, until = status.state, status.error, None
    if state == "running" and metrics.is_file():
        state, until = "done", changed(metrics)
    elif state == "running" and lock.is_held(folder) is False:
        state, error = "failed", KILLED
    elif state == "running":
        until = time.time()
    return Progress(state, error, spent(folder, status, until), _unix(status.session_started))


def spent(folder: Path, status: Status, until: float | None = None) -> float:
    """Count the seconds of all sessions.

    Args:
        folder: Folder of the run.
        status: What was written last.
        until: End of a session that has not written it, Unix time; else when it last wrote at all.
    """
    if status.state != "running":
        return status.seconds
    if until is None:
        until = max(changed(folder / name) for name in ("metrics.csv", LAST))
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
    # A disk may be full. That ends a run where its results are written, and not here: one that is
    # left as running, and whose lock nobody holds, counts as failed, and with its results as done.
    with suppress(OSError):
        write_json(folder / NAME, status._asdict())
