"""Show how a run gets on: a bar on a terminal, plain lines in a pipe or a job's log."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console, ConsoleOptions
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as RichProgress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text
from torch import Tensor

from ..errors.checks import at_least
from .readings import is_result

BAR_INTERVAL_S = 0.1
STALE_S = 2.0  # after which metrics are read again, which waits for a GPU
GAP = "  "


class Fitted:
    """As many of the metrics in a line as there is room for: no number is cut."""

    def __init__(self, line: str) -> None:
        self.parts = line.split(GAP)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        ends = accumulate(len(GAP + part) for part in self.parts)
        number = sum(end - len(GAP) <= options.max_width for end in ends)
        yield Text(GAP.join(self.parts[:number]))


class MetricsColumn(ProgressColumn):
    """The metrics beside the bar."""

    def render(self, task: Task) -> Fitted:
        return Fitted(task.fields["metrics"])


class Progress(ProgressBar):
    """Refresh by time, not by step, so that fast steps stay fast.

    Args:
        interval_s: Seconds between two lines where standard output is no terminal.
    """

    def __init__(self, interval_s: float = 5.0) -> None:
        super().__init__()
        at_least(0, interval_s=interval_s)
        self.interval_s = interval_s
        self._enabled = True
        self._bar: RichProgress | None = None
        self._next = self._next_read = 0.0
        self._epoch = self._batch = 0
        self._metrics = ""

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._next = time.monotonic() + self._interval_s
        if self._enabled and trainer.is_global_zero and sys.stdout.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}", table_column=Column(no_wrap=True)),
                BarColumn(10, table_column=Column(min_width=10)),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeRemainingColumn(table_column=Column(min_width=7, no_wrap=True)),
                MetricsColumn(table_column=Column(ratio=1)),
                auto_refresh=False,
                expand=True,
            )
            self._bar.add_task("starting", total=None, metrics="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._epoch, self._batch = trainer.current_epoch + 1, batch_idx + 1
        now, every = time.monotonic(), trainer.log_every_n_steps  # type: ignore[attr-defined]
        # In steps whose row of metrics is read as well, so that few others wait for a GPU: the
        # first ones to be shown, and those of steps that take long.
        is_row = every and now >= self._next_read and trainer.global_step % every == 0
        is_stale = now >= self._next and (not self._metrics or now >= self._next_read + STALE_S)
        if is_row or is_stale:
            self._read(trainer)
        if now >= self._next:
            self._show(trainer, self._batch, trainer.num_training_batches)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self._epoch and time.monotonic() >= self._next:
            batch_idx = args[3]  # after the module, outputs and the batch
            self._show(trainer, batch_idx + 1, sum(trainer.num_val_batches), "validation")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(trainer)
        self._show(trainer, self._batch, trainer.num_training_batches)
        self.on_exception()

    def on_exception(self, *args: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @property
    def _interval_s(self) -> float:
        return BAR_INTERVAL_S if sys.stdout.isatty() else self.interval_s

    def _read(self, trainer: Trainer) -> None:
        if self._enabled and trainer.is_global_zero:
            self._metrics = format_metrics(trainer.callback_metrics)
            self._next_read = time.monotonic() + self._interval_s

    def _show(self, trainer: Trainer, batch: int, of: float, what: str = "batch") -> None:
        if not self._enabled or not trainer.is_global_zero:
            return
        self._next = time.monotonic() + self._interval_s
        total = int(of) if math.isfinite(of) else None  # of a stream
        epochs = trainer.max_epochs or 0
        epoch = f"epoch {self._epoch}/{epochs}" if epochs > 0 else f"epoch {self._epoch}"
        if self._bar is not None:
            said = epoch if what == "batch" else what
            fields: dict[str, Any] = {"total": total, "metrics": self._metrics}
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=batch, description=said, refresh=True, **fields)
        else:
            count = f"{batch}/{total}" if total is not None else f"{batch}"
            print(f"{epoch}  {what} {count}  {self._metrics}", flush=True)


def format_metrics(metrics: Mapping[str, Tensor | float]) -> str:
    """Write metrics in one line, those of the last step and of validation first.

    Of epoch means and values of the last step it is the latter.
    """
    twice = {f"{name}_epoch" for name in metrics}
    twice |= {name for name in metrics if f"{name}_step" in metrics} | {"samples_per_s"}
    shown = [name for name in metrics if is_result(name) and name not in twice]
    shown.sort(key=lambda name: (not name.endswith("_step"), not name.startswith("val"), name))
    return GAP.join(f"{name} {float(metrics[name]):.4g}" for name in shown)
