"""Accumulate gradients by a schedule, also in runs that are resumed."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler


class AccumulationScheduler(GradientAccumulationScheduler):
    """Lightning's own, which also works where a run is resumed within an epoch.

    It knows its number of batches when optimizers are configured, on which
    ``trainer.estimated_stepping_batches`` depends. One of Lightning's beside it is taken over.

    Args:
        scheduling: Epoch (from 0) to batches from there on.
        effective_batch_size: Samples of a step over all devices, instead of a schedule; the batch
            size of the data must divide it.
    """

    _is_set = False

    def __init__(self, scheduling: dict[int, int], effective_batch_size: int | None = None) -> None:
        super().__init__(scheduling)
        self.effective_batch_size = effective_batch_size

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self.effective_batch_size is not None:
            self.scheduling = {0: num_batches(trainer, self.effective_batch_size)}
            self.epochs = [0]
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        others = [c for c in callbacks if isinstance(c, GradientAccumulationScheduler)]
        for other in [other for other in others if other is not self]:
            if self.going_to_accumulate_grad_batches():
                name = type(other).__name__
                raise ValueError(f"set beside a {name} of trainer.callbacks. Use one of them.")
            self.scheduling, self.epochs = other.scheduling, other.epochs
            kept = [callback for callback in callbacks if callback is not other]
            trainer.callbacks = kept  # type: ignore[attr-defined]
        if not self.going_to_accumulate_grad_batches():
            return
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"{type(pl_module).__name__} optimizes by hand (automatic_optimization is off), "
                "and accumulates batches in its training_step or not at all. Leave this out."
            )
        if trainer.accumulate_grad_batches == 1:  # else Lightning refuses both when training starts
            trainer.accumulate_grad_batches = self.get_accumulate_grad_batches(0)
            self._is_set = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_set:
            trainer.accumulate_grad_batches = 1
        if self.going_to_accumulate_grad_batches() or trainer.accumulate_grad_batches != 1:
            super().on_train_start(trainer, pl_module)  # else there is nothing to refuse
        # A run that is resumed within an epoch does not begin one.
        trainer.accumulate_grad_batches = self.get_accumulate_grad_batches(trainer.current_epoch)


def num_batches(trainer: Trainer, effective_batch_size: int) -> int:
    """Compute how many batches of the data make up a step of ``effective_batch_size``."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batch_size = getattr(data, "global_batch_size", None)
    if batch_size is None and hasattr(data, "batch_size"):
        batch_size = data.batch_size * trainer.world_size
    if batch_size is None:
        raise ValueError("effective_batch_size: the data has no batch_size. Give `batches`.")
    if effective_batch_size % batch_size:
        near = max(1, round(effective_batch_size / batch_size)) * batch_size
        raise ValueError(
            f"effective_batch_size: {effective_batch_size} is not a multiple of the {batch_size} "
            f"samples of a batch over {trainer.world_size} device(s). Use {near}, for example."
        )
    return int(effective_batch_size // batch_size)
