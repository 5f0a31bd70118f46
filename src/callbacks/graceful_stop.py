"""End a run at a signal, after saving."""

import signal
import sys
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from .checkpoint import Checkpoint

AGREE_EVERY = 10  # steps: each agreement makes the devices wait for one another
# Names of signals, as not every system has each, to exit statuses. SLURM warns by SIGUSR1.
STATUSES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143}


class GracefulStop(Callback):
    """At Ctrl-C, SIGTERM or SIGUSR1 finish the step, write ``last.ckpt``, and exit with a status.

    In validation the batch is finished, and validation begins anew when the run is resumed. A
    second signal ends the process at once. Several devices agree on where to stop: after the next
    step that ``AGREE_EVERY`` divides, or the next batch of validation.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._agreed: int | None = None
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        for name in STATUSES:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._receive)  # Lightning restores them

    def on_between_batches(self, trainer: Trainer) -> None:
        """Leave if asked to, once all that belongs to the step is done; see ``ExactResume``."""
        # Between two batches of an accumulation window there is nothing that could be resumed.
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if stepped and (trainer.world_size == 1 or self._step % AGREE_EVERY == 0):
            self._agree(trainer)
            if self._agreed:
                save(trainer)
                raise SystemExit(self._agreed)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._agree(trainer)
            if self._agreed:
                save(trainer)
                raise SystemExit(self._agreed)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(trainer)
        if self._agreed:  # the epoch before has been saved
            raise SystemExit(self._agreed)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(trainer)
        if self._agreed:
            raise SystemExit(self._agreed)

    def _agree(self, trainer: Trainer) -> None:
        self._agreed = self._received
        if trainer.world_size > 1:
            mine = torch.tensor(float(self._received or 0), device=trainer.strategy.root_device)
            self._agreed = int(trainer.strategy.reduce(mine, reduce_op="max")) or None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = STATUSES[signal.Signals(number).name]
        print("stopping after this step; once more to stop at once", file=sys.stderr, flush=True)
        signal.signal(number, signal.SIG_DFL)


def save(trainer: Trainer) -> None:
    """Write ``last.ckpt``, unless that is switched off."""
    for checkpoint in trainer.checkpoint_callbacks:
        if isinstance(checkpoint, Checkpoint):
            checkpoint.write_last(trainer)
