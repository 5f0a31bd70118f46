"""Datasets held whole in memory, and the datamodule that serves them batch by batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .sampling import balancing_weights
from .seeded import SPLITS, SeededDataModule, Split as Split, TrainingLoader

Sample = tuple[Tensor, Tensor]
BLOCK_BYTES = 2**27  # of inputs that are made at once on the device; at least a batch


class Arrays(NamedTuple):
    """All samples of a source: inputs (N, ...), targets (N, ...)."""

    inputs: Tensor
    targets: Tensor


class IndexedBatch(NamedTuple):
    """Samples on their way to the device; ``rows`` (B,) are their places in the source."""

    inputs: Any
    targets: Any
    rows: Any  # None: they are on the device, and transformed


class ArrayDataset(Dataset[IndexedBatch]):
    """Rows (M,) of arrays, in order; answers a whole batch of positions at once."""

    def __init__(self, arrays: Arrays, rows: Tensor, is_resident: bool, collate: Any) -> None:
        self.arrays, self.rows, self.is_resident, self.collate = arrays, rows, is_resident, collate

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: Tensor) -> IndexedBatch:
        rows = self.rows[positions]
        inputs, targets = self.arrays.inputs[rows], self.arrays.targets[rows]
        if self.collate:
            inputs, targets = self.collate(list(zip(inputs, targets, strict=True)))
        return IndexedBatch(inputs, targets, rows)


class ResidentLoader(TrainingLoader):
    """Batches of arrays that lie on the device: gathered and transformed there, many at once.

    A batch is a slice of what ``make`` returns for the rows of a block, on ``device``. Blocks begin
    at the same batches wherever a pass begins, so that a resumed run computes the very same.
    """

    make: Callable[[Tensor], Sample]
    device: torch.device

    def __iter__(self) -> Any:
        dataset: Any = self.dataset
        sampler: Any = self.sampler
        first, sampler.first_batch = sampler.first_batch, 0
        sampler.device = self.device if self.device.type == "cuda" else None
        batches = list(sampler.batches())
        size = len(batches[0]) * dataset.arrays.inputs[0].numel() * 4  # as float32
        length = max(1, BLOCK_BYTES // max(1, size))
        source = dataset.rows.to(self.device)
        for begin in range(first - first % length, len(batches), length):
            block = batches[begin : begin + length]
            made = self.make(source[torch.cat(block).to(self.device)])
            sizes = [*map(len, block)]
            parts = zip(*(torch.split(part, sizes) for part in made), strict=True)
            for inputs, targets in list(parts)[max(0, first - begin) :]:
                yield IndexedBatch(inputs, targets, None)


class InMemoryDataModule(SeededDataModule):
    """Serve arrays in global batches that are the same on any number of devices.

    Subclasses define ``load``; where splits share a source, ``source`` and ``select`` too. A
    ``collate_fn`` makes (inputs, targets) from a list of samples (input, target), in place of one
    gather for the batch; slower.

    Args:
        weighted_sampling: Draw training samples with replacement, all classes equally often.
        device_resident: Keep the arrays on the device; batches are gathered there. Where not given,
            on a GPU of whose free memory they take a quarter at most.
        timeout_s: Seconds to wait for a batch from a process, 0: for ever.
        kwargs: See ``SeededDataModule``.
    """

    def __init__(
        self,
        weighted_sampling: bool = False,
        device_resident: bool | None = None,
        timeout_s: float = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(timeout=timeout_s, **kwargs)
        if self.collate_fn and device_resident:
            raise ValueError("collate_fn: runs before the device. Set device_resident to false.")
        self.weighted_sampling, self.device_resident = weighted_sampling, device_resident
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

    def setup(self, stage: str) -> None:
        for split in SPLITS.get(stage, ()):
            if split not in self.datasets:
                arrays = self.read(self.source(split))
                rows = self.select(split, len(arrays.targets))
                rows = self.take_subset(rows) if split == "train" else rows
                is_resident = self._fits_on_device(arrays)
                self.datasets[split] = ArrayDataset(arrays, rows, is_resident, self.collate_fn)

    def teardown(self, stage: str) -> None:
        self._resident.clear()

    def train_dataloader(self) -> DataLoader[IndexedBatch]:
        dataset = self.datasets["train"]
        targets = dataset.arrays.targets[dataset.rows]
        weights = balancing_weights(targets) if self.weighted_sampling else None
        sampler = self.training_sampler(len(dataset), weights)
        # What a `collate_fn` draws may depend on the batches before.
        return self._loader("train", sampler, DataLoader if self.collate_fn else TrainingLoader)

    def val_dataloader(self) -> DataLoader[IndexedBatch]:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[IndexedBatch]:
        return self._evaluation_loader("test")

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        if not isinstance(batch, IndexedBatch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        if batch.rows is None:
            return batch
        # Lightning's own searches any nesting for tensors: 40 microseconds a step.
        parts = (None if part is None else part.to(device, non_blocking=True) for part in batch)
        return IndexedBatch(*parts)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not isinstance(batch, IndexedBatch):
            return batch
        inputs, targets, rows = batch
        if rows is None:
            return inputs, targets
        assert self.trainer is not None
        evaluated: Split = "test" if self.trainer.testing else "val"
        split = "train" if self.trainer.training else evaluated
        return self._transformed(inputs, rows, split), targets

    def transform(self, inputs: Tensor, rows: Tensor, split: Split) -> Tensor:
        """Change samples on the device, each as a function of its row, the epoch and the seed."""
        return inputs

    def needed(self) -> list[str]:
        """Name the sources that the trainer is about to read."""
        running = self.trainer.state.fn if self.trainer else None
        return sorted({self.source(split) for split in SPLITS.get(running or "fit", SPLITS["fit"])})

    def _evaluation_loader(self, split: Split) -> DataLoader[IndexedBatch]:
        return self._loader(split, self.evaluation_sampler(split, len(self.datasets[split])))

    def _loader(
        self, split: Split, sampler: Any, cls: type[DataLoader[Any]] = DataLoader
    ) -> DataLoader[IndexedBatch]:
        dataset = self.datasets[split]
        if not dataset.is_resident:
            return self.loader(dataset, sampler, cls)
        loader: Any = self.loader(dataset, sampler, ResidentLoader)
        loader.device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self._on_device(split, loader.device)  # now, not in the first step
        loader.make = partial(self._gather, split, loader.device)
        return loader  # type: ignore[no-any-return]

    def _on_device(self, split: Split, device: torch.device) -> Arrays:
        """Copy the arrays of a split to the device, once."""
        source = self.source(split)
        if source not in self._resident:
            arrays = self.datasets[split].arrays
            self._resident[source] = Arrays(*(tensor.to(device) for tensor in arrays))
        return self._resident[source]

    def _gather(self, split: Split, device: torch.device, rows: Tensor) -> Sample:
        inputs, targets = (part[rows] for part in self._on_device(split, device))
        return self._transformed(inputs, rows, split), targets

    def _transformed(self, inputs: Tensor, rows: Tensor, split: Split) -> Any:
        assert self.trainer is not None
        transformed = self.transform(inputs, rows, split)
        # Again: with `precision: 16-true` and the like, the model takes no other floats.
        return self.trainer.precision_plugin.convert_input(transformed)

    def _fits_on_device(self, arrays: Arrays) -> bool:
        if self.device_resident is not None or self.collate_fn or not (gpu := self._gpu()):
            return bool(self.device_resident)
        return sum(array.nbytes for array in arrays) <= torch.cuda.mem_get_info(gpu)[0] / 4
