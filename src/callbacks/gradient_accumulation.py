"""Train with batches larger than fit on the devices at once."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor

from lightkeel.errors.checks import at_least


class GradientAccumulation(GradientAccumulationScheduler):
    """Accumulate the gradients of several batches for one optimizer step.

    Beside Lightning's scheduler: every sample of a step has the same weight, also in the shorter
    last step of an epoch, in its smaller last batch, and where devices get one sample more than
    others. The loss must be a mean over the batch. So k batches of n are one batch of k * n. Where
    the data's sampler has no ``sizes``, the batches of a step have the same weight instead. In
    manual optimization there is nothing to do: the model itself accumulates.

    Args:
        batches: Batches accumulated for a step.
        schedule: Epoch (from 0) to batches from there on, instead.
        effective_batch_size: Samples of a step over all devices, instead; ``data.batch_size`` must
            divide it.
    """

    def __init__(
        self,
        batches: int = 1,
        schedule: dict[int, int] | None = None,
        effective_batch_size: int | None = None,
    ) -> None:
        ways = {"schedule": schedule, "effective_batch_size": effective_batch_size}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) == 2 or (given and batches != 1):
            other = "effective_batch_size" if len(given) == 2 else "batches"
            raise ValueError(f"{given[0]}: cannot be combined with {other}. Give one of them.")
        if schedule is not None and not schedule:
            raise ValueError("schedule: empty. Give epoch: batches, or leave it out.")
        at_least(1, batches=batches, effective_batch_size=effective_batch_size)
        for epoch, count in (schedule or {0: 1}).items():
            if epoch < 0 or count < 1:
                raise ValueError(f"schedule: {epoch}: {count} is not epoch >= 0: batches >= 1.")
        super().__init__(dict(schedule) if schedule else {0: batches})
        self.effective_batch_size = effective_batch_size
        self._is_set = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self.effective_batch_size is not None:
            self.scheduling = {0: self._derive(trainer, self.effective_batch_size)}
            self.epochs = [0]
        self._take_over(trainer)
        if not self.going_to_accumulate_grad_batches():
            return
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"{type(pl_module).__name__} optimizes by hand (automatic_optimization is off), "
                "and accumulates batches in its training_step or not at all. Leave this out."
            )
        if trainer.accumulate_grad_batches == 1:  # else it is refused when training starts
            # Before optimizers are configured: `trainer.estimated_stepping_batches` depends on it.
            trainer.accumulate_grad_batches = self.get_accumulate_grad_batches(0)
            self._is_set = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_set:
            trainer.accumulate_grad_batches = 1
        if self.going_to_accumulate_grad_batches() or trainer.accumulate_grad_batches != 1:
            super().on_train_start(trainer, pl_module)  # else there is nothing to refuse
        # A run that is resumed within an epoch does not begin one.
        trainer.accumulate_grad_batches = self.get_accumulate_grad_batches(trainer.current_epoch)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        if not pl_module.automatic_optimization:
            return
        weight = self._weight(trainer)
        if weight != 1:
            loss.mul_(weight)  # in place: the loss is the result of Lightning's own division

    def _weight(self, trainer: Trainer) -> float:
        """Factor that makes each sample of the window count alike.

        Lightning divides the loss by the window's nominal length and devices average gradients, so
        the mean over the n samples of a batch here comes out as n / (samples of the window).
        """
        window = trainer.accumulate_grad_batches
        sampler: Any = getattr(trainer.train_dataloader, "sampler", None)
        batch = trainer.fit_loop.batch_idx
        first = batch - batch % window
        last = int(min(first + window, trainer.num_training_batches))
        if not hasattr(sampler, "sizes"):
            return window / (last - first)
        if window == 1 and trainer.world_size == 1:
            return 1.0
        total = sum(sampler.sizes(b)[0] for b in range(first, last))
        return float(window * trainer.world_size * sampler.sizes(batch)[1] / total)

    def _take_over(self, trainer: Trainer) -> None:
        """Do what Lightning's own scheduler, where a person has added one, was to do.

        It sets the number of batches when an epoch begins, but not when a run is resumed within.
        """
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if other is self or not isinstance(other, GradientAccumulationScheduler):
                continue
            if self.going_to_accumulate_grad_batches():
                raise ValueError(
                    f"set beside a {type(other).__name__} of trainer.callbacks. Use one of them."
                )
            self.scheduling, self.epochs = other.scheduling, other.epochs
            vars(other)["on_train_start"] = None  # Lightning leaves the hook out

    @staticmethod
    def _derive(trainer: Trainer, effective: int) -> int:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch_size = getattr(data, "global_batch_size", None)
        if batch_size is None and hasattr(data, "batch_size"):
            batch_size = data.batch_size * trainer.world_size
        if batch_size is None:
            raise ValueError("effective_batch_size: the data has no batch_size. Give `batches`.")
        if effective % batch_size:
            near = max(1, round(effective / batch_size)) * batch_size
            raise ValueError(
                f"effective_batch_size: {effective} is not a multiple of the {batch_size} samples "
                f"of a batch over {trainer.world_size} device(s). Use {near}, for example."
            )
        return int(effective // batch_size)
