"""Show how a run gets on: a bar on a terminal, plain lines in a pipe or a job's log."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as RichProgress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from torch import Tensor

from ..errors.checks import at_least
from .readings import is_result

BAR_INTERVAL_S = 0.1


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
            rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(16, table_column=Column(min_width=16)),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeRemainingColumn(table_column=Column(min_width=7, no_wrap=True)),
                TextColumn("{task.fields[metrics]}", table_column=rest),
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
        # In steps whose row of metrics is read as well, so that no other one waits for a GPU.
        if every and now >= self._next_read and trainer.global_step % every == 0:
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
    """Write metrics in one line: of epoch means and values of the last step, the latter."""
    twice = {f"{name}_epoch" for name in metrics}
    twice |= {name for name in metrics if f"{name}_step" in metrics} | {"samples_per_s"}
    shown = {
        name: value for name, value in metrics.items() if is_result(name) and name not in twice
    }
    return "  ".join(f"{name} {float(value):.4g}" for name, value in sorted(shown.items()))
