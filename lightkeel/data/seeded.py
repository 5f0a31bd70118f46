"""A datamodule whose batches follow from the seed alone, on any number of devices."""

import os
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors.checks import at_least
from . import philox
from .sampling import EvaluationSampler, TrainingSampler

Split = Literal["train", "val", "test"]
# That a function of the trainer reads.
SPLITS: dict[str, list[Split]] = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"]}


class TrainingLoader(DataLoader[Any]):
    """A loader whose next pass may begin with any batch: none depends on those before."""

    def begin_at(self, batch: int) -> None:
        """Begin the next pass with a batch, counted from 0."""
        self.sampler.first_batch = batch  # type: ignore[attr-defined]


def _same(batch: Any) -> Any:
    return batch


class SeededDataModule(LightningDataModule):
    """What datamodules here have in common: sizes, samplers, and the options of a ``DataLoader``.

    Args:
        batch_size: Samples in one forward pass over all devices together.
        val_batch_size: The same in validation and test; ``batch_size`` where not given.
        seed: Of order, split and augmentation; the seed of the run where not given.
        shuffle: Draw a new order of the training samples for each epoch.
        drop_last: Leave out the last training batch of an epoch where it is smaller.
        subset: Train on this many samples (int) or this share of them (float), to be quick.
        num_workers: Processes that prepare batches. 0 is fastest for data that is in memory.
        pin_memory: Copy batches to page-locked memory; where not given, if the device is a GPU.
        persistent_workers: Keep the processes between epochs.
        prefetch_factor: Batches that each process prepares ahead.
        timeout: Seconds to wait for a batch from a process, 0: for ever.
        worker_init_fn: Called in each process with its number, before it prepares batches.
        multiprocessing_context: How processes are started; where not given, Python's default.
        in_order: Take batches in their order. If not, they come as processes have them ready, and a
            run is not repeatable.
        collate_fn: Makes a batch from a list of samples.
    """

    def __init__(
        self,
        batch_size: int = 32,
        val_batch_size: int | None = None,
        seed: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        subset: int | float | None = None,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = None,
        in_order: bool = True,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        super().__init__()
        if batch_size is None:  # a config may say null
            raise ValueError("batch_size: null. Give a number.")
        sizes = {"batch_size": batch_size, "val_batch_size": val_batch_size}
        at_least(1, **sizes, prefetch_factor=prefetch_factor)
        if isinstance(subset, float) and subset > 1 and subset.is_integer():
            subset = int(subset)  # the command line may read a count as a float
        if subset is not None and (subset <= 0 or (isinstance(subset, float) and subset > 1)):
            raise ValueError(f"subset: {subset} is neither a count >= 1 nor a share in (0, 1].")
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        at_least(0, seed=self.seed, num_workers=num_workers, timeout=timeout)
        needing = {
            "persistent_workers": persistent_workers,
            "prefetch_factor": prefetch_factor,
            "timeout": timeout,
            "worker_init_fn": worker_init_fn,
            "multiprocessing_context": multiprocessing_context,
        }
        for name, setting in needing.items():
            if setting and num_workers == 0:
                raise ValueError(f"{name}: {setting} needs worker processes. Set num_workers too.")
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.shuffle, self.drop_last, self.subset = shuffle, drop_last, subset
        self.pin_memory, self.collate_fn = pin_memory, collate_fn
        self.loader_options = {**needing, "num_workers": num_workers, "in_order": in_order}

    @property
    def global_batch_size(self) -> int:
        """Samples in one training step before accumulation, over all devices."""
        return self.batch_size

    def prepare_data(self) -> None:
        self.check_batch_sizes(self._world()[0])

    def check_batch_sizes(self, devices: int) -> None:
        """Raise ``ValueError`` unless every batch can be shared equally by the devices."""
        for name in ("batch_size", "val_batch_size"):
            size, near = getattr(self, name), f"Use {devices}."
            if size % devices:
                if lower := size - size % devices:
                    near = f"Use {lower} or {lower + devices}."
                shared = f"{size} samples cannot be shared by {devices} devices."
                raise ValueError(f"{name}: {shared} {near}")

    def split_rows(self, num_rows: int, **fractions: float) -> dict[str, Tensor]:
        """Split rows at random, by the seed, into named parts and the rest, ``train``."""
        order = philox.permutation(num_rows, self.seed, 0, "split")
        counts = [max(1, round(fraction * num_rows)) for fraction in fractions.values()]
        if sum(counts) >= num_rows:
            names = " and ".join(fractions)
            raise ValueError(f"{names}: would take all of the {num_rows} samples.")
        parts = torch.split(order, [*counts, num_rows - sum(counts)])
        return {n: p.sort().values for n, p in zip([*fractions, "train"], parts, strict=True)}

    def take_subset(self, rows: Tensor) -> Tensor:
        """Choose the rows to train on, where a ``subset`` is asked for."""
        if (count := self.subset) is None:
            return rows
        count = max(1, round(count * len(rows))) if isinstance(count, float) else count
        if count > len(rows):
            raise ValueError(f"subset: {count} is more than the {len(rows)} training samples.")
        return rows[philox.permutation(len(rows), self.seed, 0, "subset")[:count].sort().values]

    def training_sampler(self, num_samples: int, weights: Tensor | None = None) -> TrainingSampler:
        """Make the sampler of an epoch's batches, weights (num_samples,) where they differ."""
        # With `overfit_batches` the trainer wants the same batches in every epoch.
        shuffle = self.shuffle and not getattr(self.trainer, "overfit_batches", 0)
        options = (*self._world(), self.seed, shuffle, self.drop_last, weights)
        sampler = TrainingSampler(num_samples, self.batch_size, *options)
        if len(sampler) == 0:
            leaves = f"with drop_last leaves no batch of {num_samples} training samples."
            fix = "Use a smaller batch_size, or set drop_last to false."
            raise ValueError(f"batch_size: {self.batch_size} {leaves} {fix}")
        return sampler

    def evaluation_sampler(self, split: Split, num_samples: int) -> EvaluationSampler:
        """Make the sampler of the batches to validate or test on."""
        try:
            return EvaluationSampler(num_samples, self.val_batch_size, *self._world())
        except ValueError as error:
            raise ValueError(f"{split} split: {error} Use fewer devices.") from None

    def loader(self, dataset: Dataset[Any], sampler: Any, cls: Any = DataLoader) -> DataLoader[Any]:
        """Make a loader that asks a dataset for what the sampler yields: a whole batch."""
        loader: DataLoader[Any] = cls(
            dataset,
            batch_size=None,
            sampler=sampler,
            collate_fn=_same,
            pin_memory=bool(self._gpu()) if self.pin_memory is None else self.pin_memory,
            # Its own: a loader takes a random number at each pass, and models draw from the rest.
            generator=torch.Generator().manual_seed(self.seed),
            **self.loader_options,
        )
        return loader

    def _world(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _gpu(self) -> torch.device | None:
        device = self.trainer.strategy.root_device if self.trainer else None
        return device if device and device.type == "cuda" else None
