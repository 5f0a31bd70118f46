"""Any map-style ``Dataset``, and the datamodule that serves it batch by batch."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    default_collate,
)

from ..errors.checks import warn
from ..errors.explain import is_check
from . import random_streams
from .classes import classes_of, same_classes, sampling_weights
from .sampling import GivenSampler, KeptSampler
from .seeded import SPLITS, SeededDataModule, Split, TrainingLoader

Given = Callable[[], Dataset[Any]] | Dataset[Any]


class SampledDataset(Dataset[Any]):
    """Rows (M,) of a data set, asked for a batch of positions at once.

    What its samples draw from the global random numbers of torch (CPU), numpy and ``random`` is a
    function of (seed, epoch, row), and what ``collate`` draws of (seed, epoch, last row), in
    whatever process they are made.
    """

    def __init__(
        self,
        dataset: Any,
        rows: Tensor,
        collate: Callable[[list[Any]], Any],
        transform: Callable[[Any], Any] | None,
        key: tuple[int, str] | None,
    ) -> None:
        self.dataset, self.rows, self.key = dataset, rows, key
        self.collate, self.transform = collate, transform
        self.seeds_samples = key is not None
        self.numpy_numbers = np.random.MT19937(0)  # where numpy's are drawn from, begun each time

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: tuple[int, list[int]]) -> Any:
        epoch, positions = batch
        rows: list[int] = self.rows[positions].tolist()
        if self.key is None:
            # Without numbers to be drawn for each sample, a data set may be asked for all at once.
            fetch = getattr(self.dataset, "__getitems__", None)
            samples = fetch(rows) if fetch else [self.dataset[row] for row in rows]
            return self.collate([self._transformed(sample) for sample in samples])
        with random_streams.set_aside(self.numpy_numbers):
            samples = []
            for row in rows:
                random_streams.begin(*self.key, epoch, row)
                samples.append(self._transformed(self.dataset[row]))
            return self.collate(samples)  # whose draws follow those of the last sample

    def _transformed(self, sample: Any) -> Any:
        return self.transform(sample) if self.transform else sample


class DatasetDataModule(SeededDataModule):
    """Serve any map-style ``Dataset``: ``dataset``, or ``train`` with perhaps ``val`` and ``test``.

    Each is a class by its dotted path and its arguments, a function without arguments that makes a
    data set, or a list of them, which are joined (``ConcatDataset``); in Python also a data set.
    They are made when the folder of the run is there, by one process of a machine first.

    A batch is what ``collate_fn`` makes of a list of samples, by default that of PyTorch. What a
    sample draws from torch, numpy or ``random`` is a function of (seed, epoch, index), and what
    ``collate_fn`` draws of (seed, epoch, index of the last sample); in validation and test, the
    same in every epoch.

    Args:
        dataset: Samples of which validation and test are parts, chosen by the seed.
        train: Samples to train on.
        val: Samples to validate on; where not given, a part of ``train``, chosen by the seed.
        test: Samples to test on; where not given beside ``train``, there is no test.
        val_fraction: Share for validation where ``val`` is not given; null: there is none.
        test_fraction: Share of ``dataset`` for the test; null: there is none.
        train_transform: Changes a sample that is trained on, in whatever form it is. Those of
            ``torchvision.transforms.v2`` take (image, label).
        weighted_sampling: Draw training samples with replacement, all classes equally often, by the
            data set's ``targets``; or by what a function makes of the data set: for each sample a
            class (integers or strings) or a weight (real numbers).
        sampler: Makes of the training data a sampler of its positions, in place of ``shuffle``.
        batch_sampler: Makes of it a sampler of lists of positions, the batches over all devices.
        seed_samples: Begin random numbers anew for each sample, in 12 microseconds. If not, they
            depend on the number of workers, and a run that is resumed repeats the epoch's loading.
        kwargs: See ``SeededDataModule``.
    """

    def __init__(
        self,
        dataset: list[Given] | Given | None = None,
        train: list[Given] | Given | None = None,
        val: list[Given] | Given | None = None,
        test: list[Given] | Given | None = None,
        val_fraction: float | None = 0.1,
        test_fraction: float | None = 0.1,
        train_transform: Callable[[Any], Any] | None = None,
        weighted_sampling: bool | Callable[[Dataset[Any]], Any] = False,
        sampler: Callable[[Dataset[Any]], Sampler[Any]] | None = None,
        batch_sampler: Callable[[Dataset[Any]], Sampler[Any]] | None = None,
        seed_samples: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.given = given(dataset=dataset, train=train, val=val, test=test)
        self.trained = next(iter(self.given))  # the option whose data is trained on
        self.fractions: dict[str, float] = {}  # of that, for validation and test
        for name, fraction in {"val": val_fraction, "test": test_fraction}.items():
            if fraction is not None and not 0 < fraction < 1:
                raise ValueError(f"{name}_fraction: {fraction} is not in (0, 1). Null: none.")
            is_part = self.trained == "dataset" or (name == "val" and name not in self.given)
            if fraction is not None and is_part:
                self.fractions[name] = fraction
        if sum(self.fractions.values()) >= 1:
            raise ValueError(f"val_fraction: {val_fraction} with test_fraction leaves no training.")
        orders = {"weighted_sampling": weighted_sampling, "sampler": sampler}
        chosen = [n for n, o in {**orders, "batch_sampler": batch_sampler}.items() if o]
        if len(chosen) > 1:
            raise ValueError(f"{chosen[0]}: given beside {chosen[1]}. Give one of them.")
        if batch_sampler and self.drop_last:
            raise ValueError("drop_last: is up to batch_sampler, which makes the batches.")
        self.train_transform, self.weighted_sampling = train_transform, weighted_sampling
        self.sampler, self.batch_sampler, self.seed_samples = sampler, batch_sampler, seed_samples
        for split in ("val", "test"):
            if self.source(split) is None:  # for Lightning, as if it were not overridden
                setattr(self, name := f"{split}_dataloader", getattr(super(), name))
        self.made: dict[str, Any] = {}
        self.trained_samples: int | None = None  # of which there were parts, for a trained model
        self.datasets: dict[Split, SampledDataset] = {}

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes in the order of their numbers, as data sets tell by ``classes``."""
        return same_classes({name: classes_of(made, name) for name, made in self.made.items()})

    @property
    def global_batch_size(self) -> int:
        if self.batch_sampler:
            raise ValueError("batch_sampler: tells no size of its batches. Give one of batches.")
        return self.batch_size

    def preprocessing(self) -> nn.Module:
        """Make what stands between a sample's inputs and the model: nothing."""
        return nn.Identity()

    def example_inputs(self, number: int) -> Tensor:
        """Return inputs of validation (of training where there is none), (number, ...)."""
        self.setup("fit")
        dataset = self.datasets.get("val", self.datasets["train"])
        batch = dataset[0, [place % len(dataset) for place in range(number)]]
        inputs = batch[0] if isinstance(batch, Sequence) else batch
        if not isinstance(inputs, Tensor):
            raise ValueError("collate_fn: gives batches that do not begin with a tensor of inputs.")
        return inputs

    def source(self, split: Split) -> str | None:
        """Name the option whose data set holds ``split``; None: there are no such samples."""
        if split in ("train", *self.fractions):
            return self.trained
        return split if split in self.given else None

    def prepare_data(self) -> None:
        super().prepare_data()
        running = self.trainer.state.fn if self.trainer else None
        evaluated = SPLITS[running] if running in ("validate", "test") else []
        # Before training that of test too: what is wrong with it would be found at the end.
        for source in map(self.source, evaluated) if evaluated else self.given:
            if source:
                self.read(source)
        _ = self.class_names  # refuses those of parts that differ

    def read(self, source: str) -> Any:
        """Return the data set that an option gives, made once in a process."""
        if source not in self.made:
            parts = [make(source, part) for part in self.given[source]]
            made = self.made[source] = parts[0] if len(parts) == 1 else ConcatDataset(parts)
            is_split = source == self.trained and self.fractions
            if is_split and self.trained_samples not in (None, len(made)):
                had = f"and had {self.trained_samples} when the model was trained"
                names = ", ".join(map(described, parts, self.given[source]))
                has = f"{names} has {len(made)} samples, {had}: other samples are in its parts."
                rank_zero_only(warn)(f"data.{source}: {has}")
        return self.made[source]

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self.trained_samples or len(self.made.get(self.trained, ())) or None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.use_trained(state_dict)

    def use_trained(self, state: dict[str, Any]) -> None:
        """Remember how many samples a trained model's data set had, of which parts were made."""
        self.trained_samples = state.get("samples")

    def setup(self, stage: str) -> None:
        for split in SPLITS.get(stage, ()):
            if split in self.datasets or (source := self.source(split)) is None:
                continue
            dataset, is_train = self.read(source), split == "train"
            rows = torch.arange(len(dataset))
            if source == self.trained:
                rows = self.split_rows(len(dataset), **self.fractions)[split]
            self.datasets[split] = SampledDataset(
                dataset,
                self.take_subset(rows) if is_train else rows,
                self.collate_fn or default_collate,
                self.train_transform if is_train else None,
                (self.seed, split) if self.seed_samples else None,
            )
        _ = self.class_names  # refuses those of parts that differ

    def train_dataloader(self) -> DataLoader[Any]:
        dataset = self.datasets["train"]
        part = dataset.dataset
        if len(dataset) < len(part):
            part = Subset(part, dataset.rows.tolist())
        batches: Any = self.batch_sampler and self.batch_sampler(part)
        if self.sampler:
            batches = BatchSampler(self.sampler(part), self.batch_size, self.drop_last)
        if batches is not None:
            option = "sampler" if self.sampler else "batch_sampler"
            own = GivenSampler(batches, option, len(dataset), *self._world())
            return self._loader(dataset, own, DataLoader)
        weights = sampling_weights(part, self.weighted_sampling)
        sampler = self.training_sampler(len(dataset), weights)
        return self._loader(dataset, sampler, TrainingLoader if self.seed_samples else DataLoader)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: Split) -> DataLoader[Any]:
        dataset = self.datasets[split]
        sampler = self.evaluation_sampler(split, len(dataset))
        return self._loader(dataset, sampler, DataLoader)

    def _loader(self, dataset: SampledDataset, sampler: KeptSampler, cls: Any) -> DataLoader[Any]:
        sampler.names_epoch = True
        return self.loader(dataset, sampler, cls)


def given(**ways: Any) -> dict[str, list[Any]]:
    """Return the data sets that each option gives, what is trained on first, once checked."""
    listed = {name: way if isinstance(way, list) else [way] for name, way in ways.items()}
    found = {name: parts for name, parts in listed.items() if parts != [None]}
    if not {"dataset", "train"} & found.keys():
        raise ValueError("dataset: missing. Give the path of a Dataset's class, or train.")
    if "dataset" in found and len(found) > 1:
        raise ValueError(f"dataset: given beside {[*found][1]}. Give train in its place.")
    for name, parts in found.items():
        if not parts:
            raise ValueError(f"{name}: empty. Give at least one.")
        for part in parts:
            check_arguments(name, part)
    return found


def check_arguments(option: str, part: Any) -> None:
    """Raise ``ValueError`` where an argument that a data set's class needs is missing.

    The parser leaves that to the call, and gives None for what has no type.
    """
    bound = part.args if isinstance(part, partial) else ()
    for cls in (value for value in bound if isinstance(value, type)):
        for name, parameter in inspect.signature(cls).parameters.items():
            is_needed = parameter.default is parameter.empty and "VAR_" not in parameter.kind.name
            absent = None if parameter.annotation is parameter.empty else parameter.empty
            if is_needed and part.keywords.get(name, absent) is absent:
                raise ValueError(f"{option}.{name}: {cls.__name__} needs it. Give it a value.")


def make(option: str, part: Any) -> Any:
    """Make a data set, or take one that is made, and see that it can be sampled.

    Raises:
        ValueError: It cannot, or whoever wrote it refuses what it was given.
    """
    dataset = part
    if not hasattr(type(part), "__getitem__"):
        try:
            dataset = part()
        except (ValueError, FileNotFoundError, RuntimeError) as error:  # as torchvision raises
            is_crash = isinstance(error, (NotImplementedError, RecursionError))
            if is_crash or not (is_check(error.__traceback__) or isinstance(error, OSError)):
                raise
            raise ValueError(f"{option}: {error}") from error
    name = type(dataset).__name__
    if isinstance(dataset, IterableDataset) or not hasattr(type(dataset), "__getitem__"):
        how = "Serve it by a LightningDataModule of your own."
        raise ValueError(f"{option}: {name} has no samples by their numbers (`__getitem__`). {how}")
    if not hasattr(type(dataset), "__len__"):
        raise ValueError(f"{option}: {name} does not tell its length. Give it a `__len__`.")
    if len(dataset) == 0:
        raise ValueError(f"{option}: {described(dataset, part)} is empty. Give one with samples.")
    return dataset


def described(dataset: Any, part: Any) -> str:
    """Name a data set's class, with the arguments that were chosen where it is made of some."""
    name = type(dataset).__name__
    if not isinstance(part, partial):
        return name
    parameters = inspect.signature(type(dataset)).parameters
    usual = {n: repr(parameter.default) for n, parameter in parameters.items()}
    chosen = [f"{n}={v!r}" for n, v in part.keywords.items() if repr(v) != usual.get(n)]
    return f"{name}({', '.join(chosen)})"
