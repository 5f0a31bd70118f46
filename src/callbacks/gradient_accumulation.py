"""Train with batches larger than fit on the devices at once."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightkeel import AccumulationScheduler, at_least


class GradientAccumulation(AccumulationScheduler):
    """Accumulate the gradients of several batches for one optimizer step.

    Other than by Lightning's scheduler, every sample of a step has the same weight, also in the
    shorter last step of an epoch and its smaller last batch, for a loss that is a mean over the
    batch. Where the data's sampler has no ``sizes``, the batches of a step have the same weight.

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
        given += ["batches"] if batches != 1 else []
        if len(given) > 1:
            raise ValueError(f"{given[0]}: cannot be combined with {given[1]}. Give one of them.")
        if schedule == {}:
            raise ValueError("schedule: empty. Give epoch: batches, or leave it out.")
        at_least(1, batches=batches, effective_batch_size=effective_batch_size)
        for epoch, count in (schedule or {}).items():
            if epoch < 0 or count < 1:
                raise ValueError(f"schedule: {epoch}: {count} is not epoch >= 0: batches >= 1.")
        super().__init__(dict(schedule or {0: batches}), effective_batch_size)
        self.batch_idx = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batch_idx = batch_idx

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        if pl_module.automatic_optimization:
            weight = batch_weight(trainer, self.batch_idx)
            if weight != 1:
                loss.mul_(weight)  # in place: the loss is the result of Lightning's own division


def batch_weight(trainer: Trainer, batch: int) -> float:
    """Compute the factor on a batch's loss that makes each sample of its step count alike.

    Lightning divides the loss by the nominal number of batches and devices average gradients, so
    the mean over the n samples of a batch here comes out as n / (samples of the step).
    """
    window = trainer.accumulate_grad_batches
    first = batch - batch % window
    last = int(min(first + window, trainer.num_training_batches))
    sampler: Any = getattr(trainer.train_dataloader, "sampler", None)
    if not hasattr(sampler, "sizes"):
        return window / (last - first)
    if window == 1 and trainer.world_size == 1:
        return 1.0
    num_samples = sum(sampler.sizes(number)[0] for number in range(first, last))
    return float(window * trainer.world_size * sampler.sizes(batch)[1] / num_samples)
