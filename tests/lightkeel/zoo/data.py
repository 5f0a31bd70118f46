"""Datasets and datamodules as people write them who follow Lightning's documentation."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
    random_split,
)


def points(n, seed=0):
    """Points (n, 4) of three classes, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return 2 * torch.eye(3, 4)[y] + torch.randn(n, 4, generator=generator), y


class Points(LightningDataModule):
    """The usual datamodule: shuffled batches to train on."""

    def __init__(self, batch_size=8, num_samples=36, num_workers=0, drop_last=False):
        super().__init__()
        self.batch_size = batch_size
        self.num_samples = num_samples
        self.num_workers = num_workers
        self.drop_last = drop_last

    def setup(self, stage):
        self.train_set = self.dataset(self.num_samples, 0)
        self.val_set = self.dataset(12, 1)
        self.test_set = self.dataset(12, 2)

    def dataset(self, n, seed):
        return TensorDataset(*points(n, seed))

    def train_dataloader(self):
        return self.loader(self.train_set, shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self):
        return self.loader(self.val_set)

    def test_dataloader(self):
        return self.loader(self.test_set)

    def loader(self, dataset, **kwargs):
        return DataLoader(dataset, self.batch_size, num_workers=self.num_workers, **kwargs)


class PersistentPoints(Points):
    def loader(self, dataset, **kwargs):
        return super().loader(dataset, persistent_workers=True, **kwargs)


class SplitPoints(Points):
    """A validation set split off at random, as in Lightning's first example."""

    def setup(self, stage):
        whole = TensorDataset(*points(48))
        self.train_set, self.val_set = random_split(whole, [36, 12])
        self.test_set = self.dataset(12, 2)


class Augmented(Dataset):
    """Points shaken by random numbers of a kind, each time one is taken."""

    def __init__(self, n, seed, kind):
        self.x, self.y = points(n, seed)
        self.kind = kind

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        shake = torch.zeros(4)
        if self.kind in ("torch", "all"):
            shake = shake + torch.randn(4)
        if self.kind in ("numpy", "all"):
            shake = shake + torch.from_numpy(np.random.randn(4)).float()
        if self.kind in ("python", "all"):
            shake = shake + random.gauss(0, 1)
        return self.x[index] + 0.1 * shake, self.y[index]


class AugmentedPoints(Points):
    def __init__(self, kind="all", **kwargs):
        super().__init__(**kwargs)
        self.kind = kind

    def dataset(self, n, seed):
        return Augmented(n, seed, self.kind)


class DictDataset(Dataset):
    def __init__(self, n, seed):
        self.x, self.y = points(n, seed)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"inputs": self.x[index], "labels": self.y[index]}


class DictPoints(Points):
    def dataset(self, n, seed):
        return DictDataset(n, seed)


class CollatedPoints(Points):
    """Batches of a form of their own, by ``collate_fn``."""

    def loader(self, dataset, **kwargs):
        return super().loader(dataset, collate_fn=self.collate, **kwargs)

    @staticmethod
    def collate(samples):
        raise NotImplementedError


def stacked(samples):
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


class TupleOfDictPoints(CollatedPoints):
    @staticmethod
    def collate(samples):
        x, y = stacked(samples)
        return {"left": x[:, :2], "right": x[:, 2:]}, {"y": y}


@dataclass
class PointsBatch:
    x: torch.Tensor
    y: torch.Tensor


class DataclassPoints(CollatedPoints):
    @staticmethod
    def collate(samples):
        return PointsBatch(*stacked(samples))


class Graph:
    """A batch that knows how to move itself, as those of graph libraries do."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def to(self, device, non_blocking=False):
        return Graph(self.x.to(device), self.y.to(device))

    @property
    def num_graphs(self):
        return len(self.y)


class GraphPoints(CollatedPoints):
    @staticmethod
    def collate(samples):
        return Graph(*stacked(samples))


class NamedPoints(CollatedPoints):
    """Batches that begin with a list of strings."""

    @staticmethod
    def collate(samples):
        x, y = stacked(samples)
        return [f"sample {int(label)}" for label in y], x, y


class ScaledPoints(CollatedPoints):
    """Batches that begin with a tensor of no dimensions."""

    @staticmethod
    def collate(samples):
        x, y = stacked(samples)
        return torch.tensor(2.0), x, y


class Sequences(CollatedPoints):
    """Sequences of different lengths, packed."""

    @staticmethod
    def collate(samples):
        sequences = [x[: 1 + int(y)].unsqueeze(1) for x, y in samples]
        return pack_sequence(sequences, enforce_sorted=False), stacked(samples)[1]


class Tokens(Points):
    """Token ids (B, 6) to predict the next of."""

    def dataset(self, n, seed):
        first = torch.arange(n)[:, None] * (seed + 1)
        return TensorDataset((first + torch.arange(7)) % 11)


class Stream(IterableDataset):
    """A stream, which workers share; its order is shuffled in a buffer."""

    def __init__(self, n, seed, shuffle=False):
        self.x, self.y = points(n, seed)
        self.shuffle = shuffle

    def __iter__(self):
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        indices = list(range(first, len(self.x), step))
        if self.shuffle:
            random.shuffle(indices)
        for index in indices:
            yield self.x[index], self.y[index]


class SizedStream(Stream):
    def __len__(self):
        return len(self.x)


class StreamedPoints(Points):
    def __init__(self, sized=False, shuffle=False, **kwargs):
        super().__init__(**kwargs)
        self.sized = sized
        self.shuffle = shuffle

    def dataset(self, n, seed):
        return (SizedStream if self.sized else Stream)(n, seed, self.shuffle and seed == 0)

    def train_dataloader(self):
        return self.loader(self.train_set)


class CombinedPoints(Points):
    """Labelled and unlabelled batches at a time."""

    def train_dataloader(self):
        labelled = self.loader(self.dataset(16, 3), shuffle=True)
        unlabelled = self.loader(self.train_set, shuffle=True)
        loaders = {"labelled": labelled, "unlabelled": unlabelled}
        return CombinedLoader(loaders, mode="max_size_cycle")


class SeveralPoints(Points):
    """Two loaders to validate and two to test on."""

    def val_dataloader(self):
        return [self.loader(self.val_set), self.loader(self.dataset(20, 4))]

    def test_dataloader(self):
        return [self.loader(self.test_set), self.loader(self.dataset(20, 5))]


class WeightedPoints(Points):
    def train_dataloader(self):
        weights = 1.0 + (self.train_set.tensors[1] == 0)
        sampler = WeightedRandomSampler(weights.tolist(), len(weights))
        return self.loader(self.train_set, sampler=sampler)


class Buckets:
    """Batches of samples of one class, in an order drawn by ``random``."""

    def __init__(self, y, batch_size):
        self.batches = [b for c in range(3) for b in (y == c).nonzero()[:, 0].split(batch_size)]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        order = list(range(len(self.batches)))
        random.shuffle(order)
        for number in order:
            yield self.batches[number].tolist()


class BucketedPoints(Points):
    def train_dataloader(self):
        buckets = Buckets(self.train_set.tensors[1], 7)
        return DataLoader(self.train_set, batch_sampler=buckets, num_workers=self.num_workers)


class NoValidation(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(*points(36)), 8, shuffle=True)

    def test_dataloader(self):
        return DataLoader(TensorDataset(*points(12, 2)), 8)


class NoTest(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(*points(36)), 8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*points(12, 1)), 8)


class Pictures(Points):
    def dataset(self, n, seed):
        x, y = points(n * 32, seed)
        return TensorDataset(x.view(n, 2, 8, 8).repeat(1, 2, 1, 1)[:, :3], y[:n])
