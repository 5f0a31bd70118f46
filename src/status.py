"""How a run gets on, or how it ended: its ``status.json``."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from .files import read_json, write_json

NAME = "status.json"
LAST = "checkpoints/last.ckpt"
STATES = ("running", "done", "failed", "stopped")
KILLED = "killed"  # what is wrong with a run whose process is gone without a word
KINDS: dict[str, tuple[type, ...]] = {
    "state": (str,),
    "pid": (int,),
    "host": (str,),
    "process_started": (int, type(None)),
    "started": (str,),
    "session_started": (str,),
    "ended": (str, type(None)),
    "seconds": (int, float),
    "error": (str, type(None)),
}


class Status(NamedTuple):
    """What ``status.json`` holds; it speaks of the process that writes it, not of other ranks.

    Args:
        state: One of ``STATES``.
        pid: Its process.
        host: Where that runs.
        process_started: When it began, in ticks since the machine did: pids are used again.
        started: When the run began first, UTC.
        session_started: When it was last gone on with.
        ended: When it ended; None while it is running.
        seconds: Spent before this session, and in it once that has ended.
        error: One line.
    """

    state: str
    pid: int
    host: str
    process_started: int | None
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
    """Write that a run is under way in this process."""
    before, now, pid = read(folder), utc_now(), os.getpid()
    started = before.started if before else now
    seconds = look(folder).seconds or 0.0
    process = (pid, platform.node(), process_start(pid))
    _write(folder, Status("running", *process, started, now, None, seconds, None))


def end(folder: Path, state: str, error: str | None = None) -> None:
    """Write how a run has ended, if this process has begun it or found nothing left to train."""
    status = read(folder)
    if status is None:
        return
    is_own = status.state == "running" and is_same_process(status, os.getpid())
    if is_own or state == "done":
        # By now the test has written metrics, but no checkpoint.
        until = time.time() if is_own else changed(folder / LAST)
        seconds = spent(folder, status, until)
        lines = (error or "").strip().splitlines()
        ended = status._replace(state=state, ended=utc_now(), seconds=round(seconds, 3))
        _write(folder, ended._replace(error=lines[0] if lines else None))


@contextmanager
def recorded(folder: Path, explain: Callable[[Exception], str | None]) -> Iterator[None]:
    """Write how a run ends that does not get to its end.

    Args:
        folder: Folder of the run.
        explain: Says what an exception means to the person who gave the input, or None.
    """
    try:
        yield
    except SystemExit as stop:
        was_asked = stop.code in (None, 0) or (isinstance(stop.code, int) and stop.code > 128)
        end(folder, "stopped" if was_asked else "failed", None if was_asked else str(stop.code))
        raise
    except KeyboardInterrupt:
        end(folder, "stopped")
        raise
    except Exception as error:
        end(folder, "failed", explain(error) or f"{type(error).__name__}: {error}")
        raise


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
    elif state == "running" and is_gone(status):
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


def is_gone(status: Status) -> bool:
    """Tell whether the process of a run does not live; one of another machine is believed to."""
    return status.host == platform.node() and not is_same_process(status, status.pid)


def is_same_process(status: Status, pid: int) -> bool:
    """Tell whether a process of this machine lives and is the one that a status speaks of."""
    if (pid, platform.node()) != (status.pid, status.host) or pid <= 0:
        return False
    if os.name == "posix":  # elsewhere signal 0 is not harmless
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass  # it lives, and is another user's
    started = process_start(pid)
    return None in (started, status.process_started) or started == status.process_started


def process_start(pid: int) -> int | None:
    """Tell when a process began, in ticks since its machine did; None where that is not known.

    Of one that has ended and whose status nobody has asked for yet, it is -1.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()  # a process may have any name, in brackets
        return -1 if fields[0] in "ZX" else int(fields[19])
    except (OSError, LookupError, ValueError):
        return None


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
    # A disk may be full. That ends a run where a checkpoint is written, and not here; who is left
    # as running is found to be gone by its process.
    with suppress(OSError):
        write_json(folder / NAME, status._asdict())
