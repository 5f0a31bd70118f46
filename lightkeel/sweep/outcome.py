"""What came of the run of a trial, read from its folder and its log."""

import csv
import math
import shutil
import signal
from pathlib import Path

from ..runs import lock, status
from ..runs.files import read_json
from ..runs.find import CHECKPOINTS


def value_of(folder: Path, metric: str, mode: str) -> tuple[float, str | None]:
    """Return the best value that a run has logged of a metric, or why there is none.

    It is that of an epoch, or what is logged at the end alone.
    """
    values = [_number(row.get(metric)) for row in _rows(folder / "metrics.csv")]
    logged = [value for value in values if value is not None]
    final = read_json(folder / "metrics.json")
    if not logged and metric in final:
        logged = [math.nan if final[metric] is None else float(final[metric])]
    finite = [value for value in logged if math.isfinite(value)]
    if not finite:
        return math.nan, f"{metric} is {logged[-1]}" if logged else f"{metric} was never logged"
    return (max if mode == "max" else min)(finite), None


def reason_of(exit_status: int, folder: Path, log: Path) -> str:
    """Say in a line why a run has failed."""
    if exit_status < 0:
        name = signal.Signals(-exit_status).name
        return f"killed ({name})" + ("; out of memory?" if name == "SIGKILL" else "")
    if exit_status - 128 in {*signal.Signals}:
        return f"stopped ({signal.Signals(exit_status - 128).name})"  # from outside
    found = status.read(folder)
    if found is not None and found.error:
        return found.error
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    said = [line for line in lines if line] or [f"exit status {exit_status}"]
    errors = [number for number, line in enumerate(said) if line.startswith("error: ")]
    is_input = exit_status == 2 and errors
    return " ".join(said[errors[-1] :]).removeprefix("error: ") if is_input else said[-1]


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


def _number(text: str | None) -> float | None:
    return float(text) if text else None
