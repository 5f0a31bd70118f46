"""The lock by which a run keeps its folder to itself until its process is gone, however it ends."""

import errno
import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

NAME = ".lock"
PATIENCE_S = 0.2  # a look at a lock, as by the list of runs, holds it for microseconds

# What `flock` answers where a file system has no locks, or none on what is open for reading.
UNSUPPORTED = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EBADF}

_held: set[int] = set()


def take(folder: Path) -> int:
    """Lock a folder, and return what ``release`` needs; no forked process holds it."""
    path, deadline = folder / NAME, time.monotonic() + PATIENCE_S
    _close_in_children()
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):  # else the one that held it has removed it
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
                _held.add(descriptor)
                return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PATIENCE_S / 10)
        finally:
            if descriptor not in _held:
                os.close(descriptor)


def release(folder: Path, descriptor: int) -> None:
    """Unlock a folder that this process has locked."""
    if descriptor in _held:  # not in a process that was forked off
        (folder / NAME).unlink(missing_ok=True)
        _held.remove(descriptor)
        os.close(descriptor)


def is_held(folder: Path) -> bool | None:
    """Tell whether a process that lives has locked a folder; None where that is not known."""
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    try:
        return False if _flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB) else None
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def holder(folder: Path) -> str:
    """Name the process that has locked a folder, as it has written in the lock."""
    try:
        return (folder / NAME).read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:
        return "which has just ended"


@contextmanager
def alone(folder: Path, notice: str = "") -> Iterator[None]:
    """Make a folder if need be, and have other processes that ask for the same wait meanwhile.

    Where this one has to wait, it says ``notice`` on standard error.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            try:
                _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if notice:
                    print(notice, file=sys.stderr, flush=True)
                _flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, folder):  # else it has been removed meanwhile
                yield
                return
        finally:
            os.close(descriptor)


def _flock(descriptor: int, kind: int) -> bool:
    """Lock an open file; False where the file system has no locks."""
    try:
        fcntl.flock(descriptor, kind)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@cache
def _close_in_children() -> None:
    """Have a forked process, such as a loader's worker, which may outlive this one, let go."""
    os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    while _held:
        os.close(_held.pop())
