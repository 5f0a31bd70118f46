"""What came of the run of a trial, read from its folder and its log."""

import csv
import math
import re
import shutil
import signal
from pathlib import Path

from ..runs import lock, status
from ..runs.files import read_json
from ..runs.find import CHECKPOINTS

SIGNALS = {int(number): number.name for number in signal.Signals}
TRACE = re.compile(r"(Exception Group )?Traceback \(most recent call last\):")
LOG_BYTES = 2**20  # of its end, where the reason is


def value_of(folder: Path, metric: str, mode: str) -> tuple[float, str | None]:
    """Return the best value that a run has logged of a metric, or why there is none.

    It is that of an epoch, or what is logged at the end alone.
    """
    final = read_json(folder / "metrics.json")
    try:
        logged = [float(row[metric]) for row in _rows(folder / "metrics.csv") if row.get(metric)]
        if not logged and metric in final:
            logged = [math.nan if final[metric] is None else float(final[metric])]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        return math.nan, f"{metric} cannot be read ({error})"
    finite = [value for value in logged if math.isfinite(value)]
    if not finite:
        return math.nan, f"{metric} is {logged[-1]}" if logged else f"{metric} was never logged"
    return (max if mode == "max" else min)(finite), None


def reason_of(exit_status: int, folder: Path, log: Path) -> str:
    """Say in a line why a run has failed, as far as it can be known."""
    how = how_ended(exit_status)
    if exit_status == 0:
        return f"{how} before it was done"
    if exit_status < 0 or exit_status - 128 in SIGNALS:
        return how + ("; out of memory?" if exit_status == -signal.SIGKILL else "")
    found = status.read(folder)
    if found is not None and found.error:
        return found.error
    lines = [line for line in _end_of(log).splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if exit_status == 2 and errors:
        return " ".join(line.strip() for line in lines[errors[-1] :]).removeprefix("error: ")
    return _raised(lines) or (lines[-1].strip() if lines else how)


def how_ended(exit_status: int) -> str:
    """Say how a process has ended; its status is negative for a signal."""
    if exit_status < 0:  # signals for real time have no name
        return f"killed ({SIGNALS.get(-exit_status, f'signal {-exit_status}')})"
    if exit_status - 128 in SIGNALS:
        return f"stopped ({SIGNALS[exit_status - 128]})"
    return f"ended with status {exit_status}"


def _end_of(log: Path) -> str:
    """Read the end of a log; nothing where it is gone."""
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - LOG_BYTES, 0))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _raised(lines: list[str]) -> str:
    """Find the exception of the last traceback: after its frames, the first line of the text.

    Ranks and groups of exceptions have something before each line.
    """
    starts = [(n, found.start()) for n, line in enumerate(lines) if (found := TRACE.search(line))]
    if not starts:
        return ""
    number, column = starts[-1]
    own = (line[column:] for line in lines[number + 1 :])
    return next((line.strip() for line in own if line[:1].strip()), "")


def is_done(folder: Path) -> bool:
    """Tell whether the run in a folder is done."""
    return status.look(folder).state == "done" and (folder / "metrics.json").is_file()


def make_way(folder: Path) -> bool:
    """Remove what a run has left that had no checkpoint yet; False: it is still at work."""
    if lock.is_held(folder):
        return False
    if folder.exists() and not any((folder / CHECKPOINTS).glob("*.ckpt")):
        shutil.rmtree(folder)
    return True


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]
