"""Accumulate gradients by a schedule, also in runs that are resumed."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler


class AccumulationScheduler(GradientAccumulationScheduler):
    """Lightning's own, which also works where a run is resumed within an epoch.

    It knows its number of batches when optimizers are configured, on which
    ``trainer.estimated_stepping_batches`` depends. One of Lightning's beside it is taken over.

    Args:
        scheduling: Epoch (from 0) to batches from there on.
    """

    _is_set = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
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
