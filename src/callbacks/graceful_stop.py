"""End a run at a signal, after saving."""

import signal
import sys
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from .checkpoint import Checkpoint

AGREE_EVERY = 10  # steps: each agreement makes the devices wait for one another


class GracefulStop(Callback):
    """At Ctrl-C or SIGTERM finish the step, write ``last.ckpt`` and exit with 130 or 143.

    A second signal ends the process at once. Several devices agree on the step to stop at: the next
    one that ``AGREE_EVERY`` divides.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._agreed: int | None = None
        self._step = 0
        self._saved = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)  # Lightning restores them at the end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Between two steps of an accumulation window there is nothing that could be resumed.
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if stepped and (trainer.world_size == 1 or self._step % AGREE_EVERY == 0):
            self._agree(trainer)
            if self._agreed and not trainer.is_last_batch:
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
        self._agree(trainer)
        self._leave()  # the end of the epoch before has been saved

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(trainer)
        self._leave()

    def _agree(self, trainer: Trainer) -> None:
        self._agreed = self._received
        if trainer.world_size > 1:
            mine = torch.tensor(float(self._received or 0), device=trainer.strategy.root_device)
            self._agreed = int(trainer.strategy.reduce(mine, reduce_op="max")) or None

    def _leave(self) -> None:
        if self._agreed is not None:
            raise SystemExit(128 + self._agreed)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        print("stopping after this step; once more to stop at once", file=sys.stderr, flush=True)
        signal.signal(number, signal.SIG_DFL)
