"""The loggers that every run has: ``metrics.csv``, and a file for TensorBoard."""

import csv
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from .files import naming, write_whole


class MetricsCSV(Logger):
    """Write ``metrics.csv``, which Lightning's own would delete and not resume.

    One row a step or epoch. What a model logs as `step` or `epoch` makes none: ``place`` tells it.
    """

    name = "csv"
    version = ""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.place: Callable[[], tuple[int, int]] | None = None
        self._columns = ["step", "epoch"]
        self._rows: list[dict[str, Any]] = []
        self._num_written = 0
        self._num_resumed = 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {**metrics, "step": step}
        # Lightning adds the epoch, an int, unless the model logs `step` or `epoch`: floats.
        if self.place is not None and not isinstance(row.get("epoch"), int):
            row["step"], row["epoch"] = self.place()
        last = self._rows[-1] if len(self._rows) > self._num_written else {}
        if last.get("step") == row["step"] and not (set(last) & set(row)) - {"step", "epoch"}:
            last.update(row)  # values of the same step
        else:
            self._rows.append(row)
        if new := [name for name in row if name not in self._columns]:
            self._columns += sorted(new)
            self._num_written = 0  # the header changes: write it all again

    @rank_zero_only
    def save(self) -> None:
        if len(self._rows) == max(self._num_written, self._num_resumed):
            return
        done, self._num_written = self._num_written, 0  # unless written whole, it is written anew
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = io.StringIO(newline="")
        writer = csv.DictWriter(lines, self._columns)
        if not done:
            writer.writeheader()
        writer.writerows(self._rows[done:])
        if done:
            with naming(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(lines.getvalue())
        else:
            write_whole(self.path, lines.getvalue())
        self._num_written = len(self._rows)

    def finalize(self, status: str) -> None:
        if status == "success":  # else a row that could not be written would fail again
            self.save()

    @property
    def num_rows(self) -> int:
        """Count the rows so far."""
        return len(self._rows)

    @rank_zero_only
    def resume(self, num_rows: int) -> None:
        """Resume after the first ``num_rows`` rows of the file that is there."""
        if self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                rows = [row for _, row in zip(range(num_rows), reader, strict=False)]
                self._columns = list(reader.fieldnames or self._columns)
            self._rows = [{k: v for k, v in row.items() if v != ""} for row in rows]
            self._num_resumed = len(self._rows)  # left alone until there is a new row
            self._num_written = 0


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, without its ``hparams.yaml``: that is in ``config.yaml``."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        super().__init__(folder, "", "", default_hp_metric=False, purge_step=purge_step)
        self._step: int | None = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # What is logged of a step in several parts has its epoch once.
        first, self._step = step != self._step, step
        super().log_metrics({k: v for k, v in metrics.items() if first or k != "epoch"}, step)

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Have TensorBoard leave out what was logged for ``step`` and later."""
        self.experiment.close()  # Lightning has begun a file already
        self.__init__(Path(self.save_dir), step)  # type: ignore[misc]


@contextmanager
def writing_aside() -> Iterator[None]:
    """Have Python not print what fails in TensorBoard's thread, which its next call raises."""
    before = threading.excepthook

    def print_others(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            before(args)

    threading.excepthook = print_others
    try:
        yield
    finally:
        threading.excepthook = before
