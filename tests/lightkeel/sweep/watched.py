"""Sweeps in sessions of their own, watched from outside."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lightkeel.runs import lock

Found = TypeVar("Found")


def start(*args: str, module: str = "src.sweep") -> subprocess.Popen[str]:
    """Start a command as the first process of a session."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *args],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until(look: Callable[[], Found | None], timeout_s: float = 60) -> Found:
    """Look again and again until something is found."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"{look} finds nothing"
        time.sleep(0.02)
    return found


def members(command: subprocess.Popen[str]) -> list[int]:
    """List the processes that a command has started, and those that they have."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z" and int(fields[3]) == command.pid:
            found.append(int(path.parent.name))
    return found


def at_work(folder: Path, command: subprocess.Popen[str]) -> Path | None:
    """Find the folder of a run of a command that has a checkpoint and is still at work."""
    assert command.poll() is None, command.communicate()
    for run in sorted(folder.glob("sweeps/*/*/[0-9]*")):
        holder = re.match(r"process (\d+)", lock.holder(run)) if lock.is_held(run) else None
        if (
            holder
            and int(holder[1]) in members(command)
            and (run / "checkpoints/last.ckpt").is_file()
        ):
            return run
    return None


def trials(url: str, name: str) -> list[Any]:
    """Read the trials of a study."""
    import optuna

    return [*optuna.load_study(study_name=name, storage=url).trials]
