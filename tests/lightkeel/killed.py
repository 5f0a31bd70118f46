"""A callback that kills its process, as the system does one that takes too much memory."""

import os
import signal
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Killed(Callback):
    """Dies without a word.

    Args:
        rank: Which of the processes.
        step: Optimizer steps before.
        crash: Raise an error instead.
        stuck: The other processes wait for ever, as GPUs do for one another.
    """

    def __init__(self, rank: int, step: int, crash: bool = False, stuck: bool = False) -> None:
        self.rank = rank
        self.step = step
        self.crash = crash
        self.stuck = stuck

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self.step:
            return
        if trainer.global_rank == self.rank:
            if self.crash:
                raise RuntimeError("crash")
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.stuck:
            time.sleep(300)
