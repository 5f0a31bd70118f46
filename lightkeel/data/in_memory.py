"""Datasets held whole in memory, and the datamodule that serves them batch by batch."""

import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..errors.checks import at_least
from . import philox
from .sampling import EvaluationSampler, TrainingSampler, balancing_weights

Split = Literal["train", "val", "test"]
Sample = tuple[Tensor, Tensor]
# That a function of the trainer reads.
SPLITS: dict[str, list[Split]] = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"]}


class Arrays(NamedTuple):
    """All samples of a source: inputs (N, ...), targets (N, ...)."""

    inputs: Tensor
    targets: Tensor


class IndexedBatch(NamedTuple):
    """Samples on their way to the device; ``rows`` (B,) are their places in the source."""

    inputs: Any  # tensors; None: they are on the device already
    targets: Any
    rows: Any


class ArrayDataset(Dataset[IndexedBatch]):
    """Rows (M,) of arrays, in order; answers a whole batch of positions at once."""

    def __init__(self, arrays: Arrays, rows: Tensor, only_rows: bool, collate: Any) -> None:
        self.arrays, self.rows, self.only_rows, self.collate = arrays, rows, only_rows, collate

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Tensor) -> IndexedBatch:
        rows = self.rows[positions]
        if self.only_rows:
            return IndexedBatch(None, None, rows)
        inputs, targets = self.arrays.inputs[rows], self.arrays.targets[rows]
        if self.collate:
            inputs, targets = self.collate(list(zip(inputs, targets, strict=True)))
        return IndexedBatch(inputs, targets, rows)


def _same(batch: IndexedBatch) -> IndexedBatch:
    return batch


class TrainingLoader(DataLoader[IndexedBatch]):
    """A loader whose next pass may begin with any batch: none depends on those before."""

    def begin_at(self, batch: int) -> None:
        """Begin the next pass with a batch, counted from 0."""
        self.sampler.first_batch = batch  # type: ignore[attr-defined]


class InMemoryDataModule(LightningDataModule):
    """Serve arrays in global batches that are the same on any number of devices.

    Subclasses define ``load``; where splits share a source, ``source`` and ``select`` too.

    Args:
        batch_size: Samples in one forward pass over all devices together.
        val_batch_size: The same in validation and test; ``batch_size`` where not given.
        seed: Of order, split and augmentation; the seed of the run where not given.
        shuffle: Draw a new order of the training samples for each epoch.
        drop_last: Leave out the last training batch of an epoch where it is smaller.
        weighted_sampling: Draw training samples with replacement, all classes equally often.
        subset: Train on this many samples (int) or this share of them (float), to be quick.
        device_resident: Keep the arrays on the device; batches are gathered there. Where not given,
            on a GPU of whose free memory they take a quarter at most.
        num_workers: Processes that prepare batches. 0 is fastest here: a batch is one gather.
        pin_memory: Copy batches to page-locked memory; where not given, if the device is a GPU.
        persistent_workers: Keep the processes between epochs.
        prefetch_factor: Batches that each process prepares ahead.
        timeout_s: Seconds to wait for a batch from a process, 0: for ever.
        collate_fn: Makes (inputs, targets) from a list of samples (input, target), in place of
            one gather for the batch; slower.
    """

    def __init__(
        self,
        batch_size: int = 32,
        val_batch_size: int | None = None,
        seed: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        weighted_sampling: bool = False,
        subset: int | float | None = None,
        device_resident: bool | None = None,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        timeout_s: float = 0,
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
        at_least(0, seed=self.seed, num_workers=num_workers, timeout_s=timeout_s)
        needing = {"persistent_workers": persistent_workers, "prefetch_factor": prefetch_factor}
        for name, setting in {**needing, "timeout_s": timeout_s}.items():
            if setting and num_workers == 0:
                raise ValueError(f"{name}: {setting} needs worker processes. Set num_workers too.")
        if collate_fn and device_resident:
            raise ValueError("collate_fn: runs before the device. Set device_resident to false.")
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.shuffle, self.drop_last = shuffle, drop_last
        self.weighted_sampling, self.subset = weighted_sampling, subset
        self.device_resident, self.pin_memory = device_resident, pin_memory
        self.collate_fn = collate_fn
        self.loader_options = {**needing, "num_workers": num_workers, "timeout": timeout_s}
        self.datasets: dict[Split, ArrayDataset] = {}
        self.sources: dict[str, Arrays] = {}
        self.trained_classes: list[str] | None = None
        self._resident: dict[str, Arrays] = {}

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in the order of their numbers: those ``use_classes`` was given."""
        return None

    def use_classes(self, names: list[str]) -> None:
        """Number classes as a trained model does, which may know more than there are here."""
        self.trained_classes = names

    def preprocessing(self) -> nn.Module:
        """Make what ``transform`` does to samples that are not trained on, as a module."""
        return nn.Identity()

    @property
    def global_batch_size(self) -> int:
        """Samples in one training step before accumulation, over all devices."""
        return self.batch_size

    def load(self, source: str) -> Arrays:
        """Return all samples of a source."""
        raise NotImplementedError

    def read(self, source: str) -> Arrays:
        """Return all samples of a source, loaded once in a process."""
        if source not in self.sources:
            self.sources[source] = self.load(source)
        return self.sources[source]

    def source(self, split: Split) -> str:
        """Name the source that holds ``split``."""
        return split

    def select(self, split: Split, num_rows: int) -> Tensor:
        """Return the rows of the source that belong to ``split``, (M,) int64."""
        return torch.arange(num_rows)

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

    def setup(self, stage: str) -> None:
        for split in SPLITS.get(stage, ()):
            if split not in self.datasets:
                arrays = self.read(self.source(split))
                rows = self.select(split, len(arrays.targets))
                rows = self._take_subset(rows) if split == "train" else rows
                is_resident = self._fits_on_device(arrays)
                self.datasets[split] = ArrayDataset(arrays, rows, is_resident, self.collate_fn)

    def teardown(self, stage: str) -> None:
        self._resident.clear()

    def train_dataloader(self) -> DataLoader[IndexedBatch]:
        dataset = self.datasets["train"]
        targets = dataset.arrays.targets[dataset.rows]
        weights = balancing_weights(targets) if self.weighted_sampling else None
        # With `overfit_batches` the trainer wants the same batches in every epoch.
        shuffle = self.shuffle and not getattr(self.trainer, "overfit_batches", 0)
        options = (*self._world(), self.seed, shuffle, self.drop_last, weights)
        sampler = TrainingSampler(len(dataset), self.batch_size, *options)
        if len(sampler) == 0:
            leaves = f"with drop_last leaves no batch of {len(dataset)} training samples."
            fix = "Use a smaller batch_size, or set drop_last to false."
            raise ValueError(f"batch_size: {self.batch_size} {leaves} {fix}")
        # What a `collate_fn` draws may depend on the batches before.
        return self._loader(dataset, sampler, DataLoader if self.collate_fn else TrainingLoader)

    def val_dataloader(self) -> DataLoader[IndexedBatch]:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[IndexedBatch]:
        return self._evaluation_loader("test")

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        if not isinstance(batch, IndexedBatch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        # Lightning's own searches any nesting for tensors: 40 microseconds a step.
        parts = (None if part is None else part.to(device, non_blocking=True) for part in batch)
        return IndexedBatch(*parts)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not isinstance(batch, IndexedBatch):
            return batch
        assert self.trainer is not None
        inputs, targets, rows = batch
        evaluated: Split = "test" if self.trainer.testing else "val"
        split = "train" if self.trainer.training else evaluated
        if inputs is None:
            source = self.source(split)
            if source not in self._resident:
                arrays = self.datasets[split].arrays
                self._resident[source] = Arrays(*(tensor.to(rows.device) for tensor in arrays))
            inputs, targets = (part[rows] for part in self._resident[source])
        transformed = self.transform(inputs, rows, split)
        # Again: with `precision: 16-true` and the like, the model takes no other floats.
        return self.trainer.precision_plugin.convert_input(transformed), targets

    def transform(self, inputs: Tensor, rows: Tensor, split: Split) -> Tensor:
        """Change a batch on the device, as a function of its rows, the epoch and the seed."""
        return inputs

    def split_rows(self, num_rows: int, **fractions: float) -> dict[str, Tensor]:
        """Split rows at random, by the seed, into named parts and the rest, ``train``."""
        order = philox.permutation(num_rows, self.seed, 0, "split")
        counts = [max(1, round(fraction * num_rows)) for fraction in fractions.values()]
        if sum(counts) >= num_rows:
            names = " and ".join(fractions)
            raise ValueError(f"{names}: would take all of the {num_rows} samples.")
        parts = torch.split(order, [*counts, num_rows - sum(counts)])
        return {n: p.sort().values for n, p in zip([*fractions, "train"], parts, strict=True)}

    def needed(self) -> list[str]:
        """Name the sources that the trainer is about to read."""
        running = self.trainer.state.fn if self.trainer else None
        return sorted({self.source(split) for split in SPLITS.get(running or "fit", SPLITS["fit"])})

    def _take_subset(self, rows: Tensor) -> Tensor:
        if (count := self.subset) is None:
            return rows
        count = max(1, round(count * len(rows))) if isinstance(count, float) else count
        if count > len(rows):
            raise ValueError(f"subset: {count} is more than the {len(rows)} training samples.")
        return rows[philox.permutation(len(rows), self.seed, 0, "subset")[:count].sort().values]

    def _evaluation_loader(self, split: Split) -> DataLoader[IndexedBatch]:
        dataset = self.datasets[split]
        try:
            sampler = EvaluationSampler(len(dataset), self.val_batch_size, *self._world())
        except ValueError as error:
            raise ValueError(f"{split} split: {error} Use fewer devices.") from None
        return self._loader(dataset, sampler)

    def _loader(
        self, dataset: ArrayDataset, sampler: Any, cls: Any = DataLoader
    ) -> DataLoader[IndexedBatch]:
        # With `batch_size=None` the dataset is asked for what the sampler yields: a whole batch.
        loader: DataLoader[IndexedBatch] = cls(
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

    def _fits_on_device(self, arrays: Arrays) -> bool:
        if self.device_resident is not None or self.collate_fn or not (gpu := self._gpu()):
            return bool(self.device_resident)
        return sum(array.nbytes for array in arrays) <= torch.cuda.mem_get_info(gpu)[0] / 4
