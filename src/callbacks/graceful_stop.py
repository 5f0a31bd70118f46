"""End a run at a signal, after saving."""

import signal
import sys
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from src.callbacks.checkpoint import Checkpoint


class GracefulStop(Callback):
    """At Ctrl-C or SIGTERM finish the step, write ``last.ckpt`` and exit with 130 or 143.

    A second signal ends the process at once. On several devices Lightning's own handling stays:
    they would first have to agree on the step.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._step = 0
        self._saved = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if trainer.world_size == 1:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._receive)  # Lightning restores them at the end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Between two steps of an accumulation window there is nothing that could be resumed.
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if self._signal is not None and stepped and not trainer.is_last_batch:
            for checkpoint in trainer.checkpoint_callbacks:
                if isinstance(checkpoint, Checkpoint):
                    checkpoint.write_last(trainer)
            self._saved = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Not in `on_train_batch_end`: the metrics of a step are logged after that.
        if self._saved:
            self._leave()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave()  # the end of the epoch before has been saved

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        print("stopping after this step; once more to stop at once", file=sys.stderr, flush=True)
        signal.signal(number, signal.SIG_DFL)
