"""Which samples form a batch, on how many devices whatever.

Positions count the samples of one split, from 0. A sampler here yields whole batches of positions.
"""

from collections.abc import Iterator
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, SequentialSampler

from . import philox


class KeptSampler(DistributedSampler[Tensor], SequentialSampler):
    """A sampler that Lightning keeps: on several devices, and with ``overfit_batches``.

    Attributes:
        names_epoch: Whether it yields (epoch, list of positions), for workers that know no epoch.
        first_batch: Of the next pass, for a run resumed within an epoch.
        device: Where an order is drawn; None: on the CPU.
    """

    names_epoch, first_batch = False, 0
    device: torch.device | None = None

    def batches(self) -> Iterator[Tensor]:
        """Yield the positions (B,) of each batch of this rank."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        epoch, batches = self.epoch, self.batches()
        return ((epoch, part.tolist()) for part in batches) if self.names_epoch else batches

    def share(self, batch: Tensor) -> Tensor:
        """Take this rank's part of a batch: contiguous, and never empty."""
        part = torch.tensor_split(batch, self.num_replicas)[self.rank]
        return part if len(part) else batch[:1]


class TrainingSampler(KeptSampler):
    """Global batches whose order depends on (seed, epoch) alone, and of them this rank's part.

    The k-th global batch is the same on any number of devices: each takes a contiguous part of it.
    In the last, smaller batch the parts may differ by one sample; ``sizes`` tells, for gradients to
    be weighted. A rank whose part would be empty repeats a sample, of weight 0 (train metrics count
    it). With ``weights`` (num_samples,) samples are drawn in proportion to them, with replacement.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        weights: Tensor | None = None,
    ) -> None:
        dataset: Any = range(num_samples)  # only its length is used
        super().__init__(dataset, num_replicas, rank, shuffle, seed, drop_last)
        self.length, self.batch_size, self.weights = num_samples, batch_size, weights

    def order(self) -> Tensor:
        """Positions in the order of this epoch, (num_samples,) int64."""
        if self.weights is not None:
            epoch = self.epoch if self.shuffle else 0
            edges = self.weights.double().cumsum(0)
            draws = philox.uniform(self.length, self.seed, epoch, "weighted")[:, 0].double()
            found = torch.searchsorted(edges, draws * edges[-1], right=True)
            return found.clamp(max=self.length - 1)
        if not self.shuffle:
            return torch.arange(self.length)
        return philox.permutation(self.length, self.seed, self.epoch, "order", self.device)

    def sizes(self, batch: int) -> tuple[int, int]:
        """Count the samples of a batch over all ranks, and those of this rank."""
        whole = min(self.batch_size, self.length - batch * self.batch_size)
        part, rest = divmod(whole, self.num_replicas)
        return whole, part + (self.rank < rest)

    def batches(self) -> Iterator[Tensor]:
        first, self.first_batch = self.first_batch, 0
        yield from map(self.share, torch.split(self.order(), self.batch_size)[first : len(self)])

    def __len__(self) -> int:
        full, rest = divmod(self.length, self.batch_size)
        return full + (rest > 0 and not self.drop_last)


class EvaluationSampler(KeptSampler):
    """Every sample once: contiguous parts of the split, as many batches on every rank.

    ``batch_size`` is exceeded where otherwise a rank would have an empty batch.
    """

    def __init__(
        self, num_samples: int, batch_size: int, num_replicas: int = 1, rank: int = 0
    ) -> None:
        dataset: Any = range(num_samples)  # only its length is used
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        if num_samples < num_replicas:
            raise ValueError(f"{num_samples} samples cannot be shared by {num_replicas} devices.")
        # Batches must pair up between ranks, and none be empty: layers may synchronize in them.
        self.num_batches = min(-(-num_samples // batch_size), num_samples // num_replicas)
        self.part = torch.tensor_split(torch.arange(num_samples), num_replicas)[rank]

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: what samples draw is the same in every epoch."""

    def batches(self) -> Iterator[Tensor]:
        return iter(torch.tensor_split(self.part, self.num_batches))

    def __len__(self) -> int:
        return self.num_batches


class GivenSampler(KeptSampler):
    """The global batches of somebody's batch sampler, and of them this rank's part."""

    def __init__(
        self,
        batch_sampler: Any,
        option: str,
        num_samples: int,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        dataset: Any = range(num_samples)  # only its length is used
        super().__init__(dataset, num_replicas, rank)
        self.batch_sampler, self.option, self.length = batch_sampler, option, num_samples

    def batches(self) -> Iterator[Tensor]:
        for batch in self.batch_sampler:
            try:
                whole = torch.tensor([*map(index, batch)], dtype=torch.int64)
            except TypeError:
                how = "Of the training data, its first argument, make lists of positions."
                wrong = "gives a batch that is no list of integers."
                raise ValueError(f"data.{self.option}: {wrong} {how}") from None
            for position in whole[(whole < 0) | (whole >= self.length)].tolist():
                has = f"the training data has {self.length} samples, from 0"
                raise ValueError(f"data.{self.option}: gives the position {position}, but {has}.")
            yield self.share(whole)

    def __len__(self) -> int:
        return len(self.batch_sampler)


def balancing_weights(labels: Tensor) -> Tensor:
    """Weights that make all classes equally likely: (N,) int64 -> (N,) float64."""
    if labels.is_floating_point():
        raise ValueError("weighted_sampling: balances classes, but the targets are real numbers.")
    return 1.0 / torch.bincount(labels).double()[labels]
