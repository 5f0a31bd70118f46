"""Count which class is taken for which, and keep the worst mistakes."""

from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ..errors.checks import at_least

MAX_CLASSES = 1000  # of more, the matrix would take more memory than most models


class Mistake(NamedTuple):
    """A sample (as the model gets it, on the CPU) that was given the wrong class."""

    inputs: Tensor
    target: int
    predicted: int
    probability: float


class Confusion(Callback):
    """Compare outputs with targets in ``trainer.validate`` and ``trainer.test``, not in training.

    Batches are pairs of inputs and targets (B,) int64; outputs are what the step returns: class
    scores (B, K), or nothing is found. Everything stays on the device until the loop ends. Targets
    outside [0, K) are left out; so is what has no place in ``worst``: mistakes whose probability is
    no number, and inputs of another shape than the first.

    Args:
        num_worst: Mistakes to keep.

    Attributes:
        matrix: (K, K) int64, rows true, columns predicted, over all devices; on the CPU.
        worst: The wrong predictions of highest probability over all devices, highest first.
    """

    def __init__(self, num_worst: int = 16) -> None:
        at_least(0, num_worst=num_worst)
        self.num_worst = num_worst
        self._forget()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forget()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        if trainer.state.fn != "fit":
            self._collect(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._finish(trainer)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _forget(self) -> None:
        self.matrix: Tensor | None = None
        self.worst: list[Mistake] = []
        self._counts: Tensor | None = None  # (K * K + 1,): the last for targets left out
        self._kept: list[Tensor] = []  # inputs, targets, predicted, probability: the worst so far

    def _collect(self, outputs: Any, batch: Any) -> None:
        if not fits(outputs, batch):
            return
        num_cells = outputs.shape[1] ** 2
        if self._counts is None:
            self._counts = batch[1].new_zeros(num_cells + 1)
        if len(self._counts) != num_cells + 1:  # another dataset, with other classes
            return
        new, cells = surest_mistakes(outputs, batch, self.num_worst)
        self._counts.index_add_(0, cells, torch.ones_like(cells))
        if not self._kept:
            self._kept = new
        elif self._kept[0].shape[1:] == new[0].shape[1:]:
            joined = [torch.cat(parts) for parts in zip(self._kept, new, strict=True)]
            self._kept = top(joined, self.num_worst)

    # Tensors made in inference mode could not be changed by whoever gets them.
    @torch.inference_mode(False)
    def _finish(self, trainer: Trainer) -> None:
        mine = None if self._counts is None else self._counts.cpu()
        kept = [values.cpu().clone() for values in self._kept]
        parts = [part for part in gather(trainer, (mine, kept)) if part[0] is not None]
        if not parts:
            return
        counts = torch.stack([part[0] for part in parts]).sum(0)[:-1]
        size = round(len(counts) ** 0.5)
        self.matrix = counts.reshape(size, size)
        samples = (sample for _, kept in parts for sample in zip(*kept, strict=True))
        mistakes = [Mistake(x, int(y), int(z), float(p)) for x, y, z, p in samples if p >= 0]
        self.worst = sorted(mistakes, key=lambda m: -m.probability)[: self.num_worst]


def surest_mistakes(outputs: Tensor, batch: Any, most: int) -> tuple[list[Tensor], Tensor]:
    """Compare class scores (B, K) with a batch of inputs and classes (B,).

    Returns:
        Inputs, classes, predicted classes and probabilities of mistakes, the highest probability
        first; where there are fewer than ``most``, others follow with a probability of -1. And for
        each sample its cell, true * K + predicted, or K * K where its class is none.
    """
    inputs, targets = batch[0], batch[1]
    num_classes = outputs.shape[1]
    probability, predicted = outputs.float().softmax(1).max(1)
    known = (targets >= 0) & (targets < num_classes)
    wrong = known & (predicted != targets) & probability.isfinite()
    found = [inputs, targets, predicted, torch.where(wrong, probability, -1.0)]
    cells = torch.where(known, targets * num_classes + predicted, num_classes**2)
    return top(found, most), cells


def top(samples: list[Tensor], most: int) -> list[Tensor]:
    """Choose the samples whose last value is highest, in order."""
    chosen = samples[-1].argsort(descending=True, stable=True)[:most]
    return [part[chosen] for part in samples]


def gather(trainer: Trainer, value: Any) -> list[Any]:
    """Collect a value of each rank on all of them, in their order."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def fits(outputs: Any, batch: Any) -> bool:
    """Tell whether these are scores (B, K) of a batch of inputs (B, ...) and classes (B,)."""
    if not (isinstance(batch, (tuple, list)) and len(batch) >= 2):
        return False
    inputs, targets = batch[:2]
    return (
        all(isinstance(part, Tensor) for part in (outputs, inputs, targets))
        and targets.dtype == torch.int64
        and outputs.is_floating_point()
        and outputs.ndim == 2
        and targets.shape == outputs.shape[:1] == inputs.shape[:1]
        and 0 < outputs.shape[1] <= MAX_CLASSES
    )
