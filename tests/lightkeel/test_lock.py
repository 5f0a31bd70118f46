"""One process at a time has a folder, and nobody has it when that process is gone."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightkeel.runs import lock

# Takes the lock, then starts what might hold it on: a forked process and another program.
HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from lightkeel.runs import lock
lock.take(Path(sys.argv[1]))
runs, begins = os.pipe()
child = os.fork()
if child == 0:
    os.write(begins, b"1")
    time.sleep(60)
    os._exit(0)
os.read(runs, 1)  # it lets go when it begins to run
print(child, subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 0.0)


def test_one_at_a_time(tmp_path: Path) -> None:
    assert lock.is_held(tmp_path) is False
    held = lock.take(tmp_path)
    assert lock.is_held(tmp_path) is True
    assert lock.holder(tmp_path).startswith(f"process {os.getpid()} on ")
    with pytest.raises(BlockingIOError):
        lock.take(tmp_path)
    lock.release(tmp_path, held)
    assert list(tmp_path.iterdir()) == []
    lock.release(tmp_path, lock.take(tmp_path))


def test_free_when_its_process_is_killed(tmp_path: Path) -> None:
    """At once, though what it has started lives on."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    started = [int(word) for word in process.stdout.readline().split()]
    try:
        assert lock.is_held(tmp_path) is True
        process.kill()
        process.wait()
        assert lock.is_held(tmp_path) is False
        for number in started:
            os.kill(number, 0)  # it lives
        lock.release(tmp_path, lock.take(tmp_path))
    finally:
        process.stdout.close()
        for number in started:
            os.kill(number, signal.SIGKILL)


def test_lock_that_is_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the one that held it, between opening and locking: that file is nobody's any more."""
    flock = fcntl.flock
    seen: list[int] = []

    def remove_first(descriptor: int, kind: int) -> None:
        if not seen:
            (tmp_path / lock.NAME).unlink()
        seen.append(kind)
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    lock.take(tmp_path)
    assert len(seen) == 2
    assert lock.is_held(tmp_path) is True


def test_a_look_does_not_keep_anybody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``src.runs`` takes."""
    monkeypatch.setattr(lock, "PATIENCE_S", 10.0)
    (tmp_path / lock.NAME).touch()
    look = os.open(tmp_path / lock.NAME, os.O_RDONLY)
    fcntl.flock(look, fcntl.LOCK_SH)
    monkeypatch.setattr("time.sleep", lambda seconds: os.close(look))
    lock.take(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_file_systems_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    first, second = lock.take(tmp_path), lock.take(tmp_path)
    assert lock.is_held(tmp_path) is None
    for held in (first, second):
        lock.release(tmp_path, held)
    with lock.alone(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()


def test_a_folder_that_is_removed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process whose run came to nothing."""
    flock = fcntl.flock
    seen: list[int] = []

    def remove_first(descriptor: int, kind: int) -> None:
        if not seen:
            (tmp_path / "new").rmdir()
        seen.append(kind)
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with lock.alone(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert len(seen) == 2
