"""Measure how fast a run trains and how much memory it takes."""

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


class Throughput(Callback):
    """Measure training alone: validation, checkpoints and start-up are not counted.

    Logs, once an epoch: samples_per_s over all devices, if batches tell how many they hold (see
    ``count_samples``); memory_mib, the peak so far of the process that takes most (on GPUs, of its
    device memory).
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

    def on_train_batch_start(self, *args: Any) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        count = count_samples(batch) or 0
        sizes = getattr(getattr(trainer.train_dataloader, "sampler", None), "sizes", None)
        # The batch itself may be a list of images of any size, of which the first tensor is one.
        self._epoch_samples += sizes(batch_idx)[1] if count and sizes else count

    def on_validation_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self._since is not None:
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            self._epoch_seconds += time.perf_counter() - self._since
            self._since = None

    on_save_checkpoint = on_validation_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_start(trainer)
        mine = torch.tensor(float(self._epoch_samples), device=pl_module.device)
        samples = float(trainer.strategy.reduce(mine, reduce_op="sum"))
        self.num_samples += int(samples)
        self.train_seconds += self._epoch_seconds
        if samples:
            rate = samples / max(self._epoch_seconds, 1e-9)
            pl_module.log("samples_per_s", rate, sync_dist=True, batch_size=1)
        if pl_module.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(pl_module.device) / 2**20
        else:  # bytes on macOS, KiB elsewhere
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            peak /= 2**10 if sys.platform == "darwin" else 1
        pl_module.log("memory_mib", peak, sync_dist=True, reduce_fx="max", batch_size=1)


def count_samples(batch: Any) -> int | None:
    """Count the samples of a batch; None where it does not tell.

    The first tensor that has dimensions tells, or the first list of strings or numbers, in any
    nesting of lists, tuples, mappings and dataclasses. Other objects may hold anything.
    """
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else None
    if isinstance(batch, PackedSequence):
        return int(batch.batch_sizes[0])
    parts = list(batch) if isinstance(batch, (tuple, list)) else []
    if parts and isinstance(parts[0], Tensor) and parts[0].ndim:
        return parts[0].shape[0]
    if parts and all(isinstance(part, (str, bytes, int, float)) for part in parts):
        return len(parts)
    if isinstance(batch, Mapping):
        parts = list(batch.values())
    elif is_dataclass(batch):
        parts = [getattr(batch, field.name) for field in fields(batch)]
    return next((count for part in parts if (count := count_samples(part)) is not None), None)
