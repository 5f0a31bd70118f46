"""Measure how fast a run trains and how much memory it takes."""

import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor

from .. import readings


class Throughput(Callback):
    """Measure training alone: validation, checkpoints and start-up are not counted.

    Logs, once an epoch: samples_per_s over all devices; memory_mib, the peak so far of the process
    that takes most (on GPUs, of its device memory).
    """

    def __init__(self) -> None:
        self.num_samples = 0
        self.train_seconds = 0.0
        self._since: float | None = None
        self._epoch_samples = 0
        self._epoch_seconds = 0.0

    @property
    def samples_per_s(self) -> float:
        """Mean over all epochs."""
        return self.num_samples / self.train_seconds if self.train_seconds else 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_samples, self._epoch_seconds = 0, 0.0
        self._since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning's own search takes 20 microseconds, where most batches are a pair of tensors.
        pair = isinstance(batch, (tuple, list)) and isinstance(batch[0], Tensor)
        self._epoch_samples += len(batch[0]) if pair else extract_batch_size(batch)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._pause(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(trainer)
        samples = trainer.strategy.reduce(
            torch.tensor(float(self._epoch_samples), device=pl_module.device), reduce_op="sum"
        )
        self.num_samples += int(samples)
        self.train_seconds += self._epoch_seconds
        peak = torch.tensor(_peak_memory_mib(pl_module.device), device=pl_module.device)
        values = {
            "samples_per_s": float(samples) / max(self._epoch_seconds, 1e-9),
            "memory_mib": trainer.strategy.reduce(peak, reduce_op="max"),
        }
        readings.write(trainer, trainer.global_step - 1, values)

    def _pause(self, trainer: Trainer) -> None:
        if self._since is not None:
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            self._epoch_seconds += time.perf_counter() - self._since
            self._since = None


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
