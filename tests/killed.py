"""A callback that kills its process, as the system does one that takes too much memory."""

import os
import signal
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Killed(Callback):
    """Dies without a word.

    Args:
        rank: Which of the processes.
        step: Optimizer steps before.
    """

    def __init__(self, rank: int, step: int) -> None:
        self.rank = rank
        self.step = step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
