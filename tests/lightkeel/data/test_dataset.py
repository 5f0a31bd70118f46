"""Any Dataset: order, shards, what samples draw, weights, classes, and what cannot be served."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from lightkeel.data.dataset import DatasetDataModule
from lightkeel.data.random_streams import RandomStreams
from tests.lightkeel.data.serving import STAGES, trainer

Draws = tuple[int, float, float, float]
# Of 20 samples, by the seed 5, and what sample 3 of another draws in epoch 0.
TRAINED = [[13, 7, 5, 9], [0, 2, 3, 6], [16, 4, 11, 17], [18, 19]]
FIRST = (0.18670105934143066, 0.5015113150083772, 0.33090081953878747)


class Numbers(Dataset[Any]):
    """Samples 0, 1, 2 ..., each with a number of torch, of numpy and of ``random``."""

    classes = ("even", "odd")

    def __init__(self, num: int = 10) -> None:
        self.num, self.targets = num, [place % 2 for place in range(num)]
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Draws:
        self.asked.append(index)
        return index, float(torch.rand(())), float(np.random.rand()), random.random()


def served(
    data: DatasetDataModule,
    split: Any = "train",
    epoch: int = 0,
    devices: int = 1,
    rank: int = 0,
    batches_done: int = 0,
) -> list[Any]:
    """All batches of an epoch, as a rank's loader gives them."""
    data.trainer = trainer(split, epoch, devices, rank)
    data.prepare_data()
    data.setup(STAGES[split])
    loader: Any = getattr(data, f"{split}_dataloader")()
    loader.sampler.set_epoch(epoch)
    if batches_done:
        loader.begin_at(batches_done)
    return list(loader)


def tuples(samples: list[Draws]) -> list[Draws]:
    return samples


def numbers(num: int = 10, **options: Any) -> DatasetDataModule:
    return DatasetDataModule(
        Numbers(num), **{"seed": 5, "batch_size": 4, "collate_fn": tuples, **options}
    )


def places(batches: list[list[Draws]]) -> list[list[int]]:
    return [[sample[0] for sample in batch] for batch in batches]


def drawn(batches: list[list[Draws]]) -> dict[int, Draws]:
    return {sample[0]: sample for sample in chain(*batches)}


# Order and shards.


def test_parts_and_order_follow_from_the_seed() -> None:
    data = numbers(20, val_fraction=0.2, test_fraction=0.1)
    assert places(served(data, "val")) == [[10, 12, 14, 15]]
    assert places(served(data, "test")) == [[1, 8]]
    assert places(served(data)) == TRAINED
    assert places(served(data, epoch=1)) != TRAINED
    assert sorted(chain(*places(served(data, epoch=1)))) == sorted(chain(*TRAINED))
    assert places(served(numbers(20, val_fraction=0.2, seed=6), "val")) != [[10, 12, 14, 15]]
    assert places(served(numbers(5, shuffle=False, test_fraction=None))) == [[0, 2, 3, 4]]


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_sample_is_on_one_rank_once(split: str) -> None:
    def of_ranks(devices: int) -> list[list[int]]:
        parts = [places(served(numbers(30), split, 3, devices, rank)) for rank in range(devices)]
        return [list(chain(*batch)) for batch in zip(*parts, strict=True)]

    alone = of_ranks(1)
    assert sorted(chain(*alone)) == sorted(chain(*of_ranks(2))) == sorted({*chain(*alone)})
    if split == "train":  # the k-th batch is the same
        assert of_ranks(2) == of_ranks(4) == alone


def test_parts_that_are_given_stay_apart() -> None:
    data = numbers(20)
    data = DatasetDataModule(
        train=Numbers(20), test=Numbers(3), val_fraction=0.2, seed=5, collate_fn=tuples
    )
    assert places(served(data, "test")) == [[0, 1, 2]]
    assert [*chain(*places(served(data, "val")))] == [10, 12, 14, 15]
    assert len([*chain(*places(served(data)))]) == 16
    data = DatasetDataModule(train=Numbers(4), val=Numbers(2), seed=5, collate_fn=tuples)
    assert places(served(data, "val")) == [[0, 1]]
    assert sorted(*places(served(data))) == [0, 1, 2, 3]
    without: Any = data.test_dataloader
    assert without.__func__ is LightningDataModule.test_dataloader  # there is none, for Lightning


def test_several_are_joined() -> None:
    data = DatasetDataModule(
        [Numbers(3), lambda: Numbers(4)], val_fraction=None, test_fraction=None
    )
    served(data)
    assert isinstance(data.made["dataset"], ConcatDataset)
    assert len(data.datasets["train"]) == 7
    assert data.class_names == ["even", "odd"]


def test_another_length_than_trained_on_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    served(trained := numbers(20))
    assert trained.state_dict() == {"samples": 20}

    def said(split: str = "val", **options: Any) -> str:
        data = DatasetDataModule(**options, collate_fn=tuples)
        data.load_state_dict(trained.state_dict())
        served(data, split)
        assert data.state_dict() == {"samples": 20}  # as the parts were in training
        return capsys.readouterr().err

    assert said(dataset=partial(Numbers, num=30)) == (
        "warning: data.dataset: Numbers(num=30) has 30 samples, and had 20 when the model was "
        "trained: other samples are in its parts.\n"
    )
    assert said(train=[Numbers(12), Numbers(9)]) == (
        "warning: data.train: Numbers, Numbers has 21 samples, and had 20 when the model was "
        "trained: other samples are in its parts.\n"
    )
    assert said(dataset=Numbers(20)) == ""
    assert said("test", train=Numbers(30), test=Numbers(3)) == ""  # which is whole
    assert said(train=Numbers(30), val=Numbers(3)) == ""


def test_subset() -> None:
    assert len([*chain(*places(served(numbers(30, subset=0.5))))]) == 12
    assert len([*chain(*places(served(numbers(30, subset=5))))]) == 5


# What samples draw.


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_draws_are_a_function_of_seed_epoch_and_index(workers: int) -> None:
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers == 2}
    expected = {epoch: drawn(served(numbers(), epoch=epoch)) for epoch in (0, 1)}
    assert expected[0][3] == (3, *FIRST)
    assert not {*expected[0].values()} & {*expected[1].values()}
    data = numbers(**options)
    for epoch in (0, 1, 0):
        assert drawn(served(data, epoch=epoch)) == expected[epoch]
    for rank in (0, 1):
        part = drawn(served(numbers(**options, batch_size=6), epoch=1, devices=2, rank=rank))
        assert part.items() <= expected[1].items()
        assert len(part) == 4
    both = DatasetDataModule(train=Numbers(), val=Numbers(), seed=5, collate_fn=tuples)
    first = served(both, "val", 0)
    assert served(both, "val", 7) == first
    assert not {*drawn(first).values()} & {*drawn(served(both)).values()}


def test_persistent_workers_are_told_the_epoch() -> None:
    data = numbers(num_workers=2, persistent_workers=True)
    served(data)
    loader: Any = data.train_dataloader()
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        assert drawn(list(loader)) == drawn(served(numbers(), epoch=epoch))


def test_who_draws_beside_is_left_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    def seeded(between: Callable[[], Any]) -> list[tuple[float, float, float]]:
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        return [draw(), between(), draw()][::2]

    assert seeded(lambda: None) == seeded(lambda: served(numbers()))


class Normals(Numbers):
    """One normal a sample, of the two that numpy draws at once."""

    def __getitem__(self, index: int) -> Draws:
        return index, 0.0, float(np.random.randn()), 0.0


def test_a_second_normal_of_numpy_is_due_to_who_drew_the_first() -> None:
    def between(make_batches: Callable[[], Any]) -> tuple[list[float], Any]:
        np.random.seed(3)
        first = np.random.randn()
        made = make_batches()
        return [round(x, 4) for x in (first, np.random.randn(), np.random.randn())], made

    expected = [1.7886, 0.4365, 0.0965]
    assert between(lambda: None)[0] == expected
    data = {"seed": 5, "collate_fn": tuples}
    found, samples = between(lambda: served(DatasetDataModule(Normals(), **data)))  # type: ignore[arg-type]
    assert found == expected
    np.random.seed(4)  # none is due
    assert served(DatasetDataModule(Normals(), **data)) == samples  # type: ignore[arg-type]

    def stream() -> list[float]:
        streams, drawn_there = RandomStreams((1, 2)), []
        for _ in range(2):
            with streams.active():
                drawn_there.append(round(np.random.randn(), 4))
        return drawn_there

    assert between(stream) == (expected, [0.3864, 0.2835])


def test_collate_draws_by_the_last_sample_and_the_epoch() -> None:
    def shaken(samples: list[Draws]) -> tuple[int, float]:
        return samples[-1][0], float(torch.rand(()))

    first = dict(served(numbers(collate_fn=shaken)))
    assert dict(served(numbers(collate_fn=shaken, num_workers=1))) == first
    assert not {*first.values()} & {
        value for _, value in served(numbers(collate_fn=shaken), epoch=1)
    }


def test_transform_is_of_training_alone_and_draws_alike() -> None:
    def shift(sample: Draws) -> Draws:
        return sample[0], random.random(), 0.0, 0.0

    shifted = drawn(served(numbers(train_transform=shift)))
    assert drawn(served(numbers(train_transform=shift, num_workers=1))) == shifted
    assert all(sample[2] == 0 for sample in shifted.values())
    assert served(numbers(train_transform=shift), "val") == served(numbers(), "val")


def test_a_pass_begins_anywhere() -> None:
    data = numbers(20)
    assert served(data, epoch=1, batches_done=3) == served(numbers(20), epoch=1)[3:]
    assert len(data.made["dataset"].asked) == 4  # of 16, in four batches
    assert not hasattr(numbers_loader(seed_samples=False), "begin_at")
    assert not hasattr(numbers_loader(sampler=RandomSampler), "begin_at")


def numbers_loader(**options: Any) -> Any:
    data = numbers(**options)
    served(data)
    return data.train_dataloader()


class Together(Numbers):
    """Answers several at once."""

    def __getitems__(self, indices: list[int]) -> list[Draws]:
        return [(index, 0.5, 0.5, 0.5) for index in indices]


def test_without_seeds_samples_may_be_asked_for_together() -> None:
    options: dict[str, Any] = {"seed_samples": False, "collate_fn": tuples}
    (sample, *_) = chain(*served(DatasetDataModule(Together(), **options)))
    assert sample[1:] == (0.5, 0.5, 0.5)
    torch.manual_seed(3)
    one = served(DatasetDataModule(Numbers(), seed=5, **options))
    torch.manual_seed(4)
    assert served(DatasetDataModule(Numbers(), seed=5, **options)) != one


def test_options_reach_the_loader() -> None:
    options: dict[str, Any] = {
        "worker_init_fn": print,
        "timeout": 9.0,
        "prefetch_factor": 3,
        "in_order": False,
    }
    data = numbers(num_workers=2, multiprocessing_context="spawn", **options)
    data.setup("fit")
    loader: Any = data.train_dataloader()  # of which no process is started
    assert {name: getattr(loader, name) for name in options} == options
    assert loader.multiprocessing_context.get_start_method() == "spawn"


# Samplers and weights.


def test_own_sampler_is_sharded() -> None:
    def backwards(dataset: Any) -> Any:
        return range(len(dataset))[::-1]

    options: dict[str, Any] = {"val_fraction": None, "test_fraction": None}
    data = numbers(10, sampler=backwards, drop_last=True, **options)
    assert places(served(data)) == [[9, 8, 7, 6], [5, 4, 3, 2]]
    assert places(served(data, devices=2, rank=1)) == [[7, 6], [3, 2]]
    data = numbers(10, batch_sampler=lambda d: [[0, 1, 2], [5], [7, 8]], **options)
    assert places(served(data)) == [[0, 1, 2], [5], [7, 8]]
    assert places(served(data, devices=2, rank=1)) == [[2], [5], [8]]  # one has to be repeated
    with pytest.raises(ValueError, match="batch_sampler: tells no size of its batches"):
        _ = data.global_batch_size


def test_own_sampler_sees_the_training_part() -> None:
    data = numbers(20, sampler=SequentialSampler, val_fraction=0.2, test_fraction=0.1)
    assert [*chain(*places(served(data)))] == sorted(chain(*TRAINED))
    with pytest.raises(ValueError, match=r"data.sampler: gives the position 14, but .* 14 samples"):
        served(numbers(20, sampler=lambda d: [3, 14], val_fraction=0.2, test_fraction=0.1))


@pytest.mark.parametrize("batch", [[(torch.zeros(3, 2), 1)], [0.5], ["a"], 3, [torch.zeros(2)]])
def test_batches_of_what_are_no_positions(batch: Any) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        served(numbers(batch_sampler=lambda d: [[0], batch]))
    assert str(error.value) == (
        "data.batch_sampler: gives a batch that is no list of integers. "
        "Of the training data, its first argument, make lists of positions."
    )
    given = [np.int64(0), torch.tensor(1)], torch.tensor([2, 3]), (4,)
    assert [len(part) for part in served(numbers(batch_sampler=lambda d: given))] == [2, 2, 1]
    with pytest.raises(ValueError, match=r"^data\.batch_sampler: gives the position 8, but"):
        served(numbers(batch_sampler=lambda d: [[8]]))


class Uneven(Numbers):
    """One sample in ten is of class 1."""

    def __init__(self, num: int = 100) -> None:
        super().__init__(num)
        self.targets = [int(place % 10 == 0) for place in range(num)]


class Labelled(Numbers):
    """100 samples whose targets are what is given."""

    def __init__(self, targets: Any) -> None:
        super().__init__(100)
        self.targets = targets


NO_TARGETS = (
    "Labelled has no `targets` with a class for each of its 100 samples. Give the path of a "
    "function that makes classes or weights of the data set."
)


def rare(dataset: Any) -> list[float]:
    return [float(place == 7) for place in range(len(dataset))]


def words(dataset: Any) -> list[str]:
    return ["rare" if place % 10 == 0 else "common" for place in range(len(dataset))]


@pytest.mark.parametrize(
    ("weighted", "counts"),
    [(True, (97, 103)), (words, (97, 103)), (rare, (0, 200)), (False, (180, 20))],
)
def test_weighted_sampling_counts(weighted: Any, counts: tuple[int, int]) -> None:
    options: dict[str, Any] = {"val_fraction": None, "test_fraction": None, "collate_fn": tuples}
    both: list[Any] = [Uneven(), Uneven()]
    data = DatasetDataModule(both, weighted_sampling=weighted, seed=0, **options)
    found = [place for batch in places(served(data)) for place in batch]
    assert len(found) == 200
    is_rare = [place == 7 if weighted is rare else place % 10 == 0 for place in found]
    assert (is_rare.count(False), is_rare.count(True)) == counts
    sampler: Any = data.train_dataloader().sampler
    assert sampler.sizes(6) == (8, 8)


def test_weights_are_of_the_training_part() -> None:
    data = DatasetDataModule(Uneven(), weighted_sampling=True, seed=0, collate_fn=tuples)
    found = {place for batch in places(served(data)) for place in batch}
    assert found <= {*data.datasets["train"].rows.tolist()}
    served(data)
    weights = data.train_dataloader().sampler.weights  # type: ignore[attr-defined]
    assert len(weights) == 80
    assert {round(float(w), 6) for w in weights} == {round(1 / 71, 6), round(1 / 9, 6)}


@pytest.mark.parametrize(
    ("dataset", "weighted", "message"),
    [
        (TensorDataset(torch.zeros(20)), True, "TensorDataset has no `targets` with a class for"),
        (Labelled([0] * 10), True, NO_TARGETS),
        (Labelled([[0], [0, 1]] * 50), True, NO_TARGETS),
        (Labelled([[0, 1]] * 100), True, NO_TARGETS),
        (Labelled([{}] * 100), True, NO_TARGETS),
        (Labelled(None), True, NO_TARGETS),
        (Uneven(), lambda d: [[0], [0, 1]] * 40, r"\[\] classes or weights for 80 samples. Give"),
        (Uneven(), lambda d: [1.0], r"\[1\] classes or weights for 80 samples. Give one for each."),
        (Uneven(), lambda d: -torch.ones(80), "a weight is negative, NaN or infinite, or all are"),
        (Uneven(), lambda d: torch.zeros(80), "a weight is negative, NaN or infinite, or all are"),
    ],
)
def test_weights_that_cannot_work(dataset: Any, weighted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"weighted_sampling: {message}"):
        served(DatasetDataModule(dataset, weighted_sampling=weighted))


# Batches of any form.


class Boxes(Dataset[Any]):
    """Images of one size or another, each with its number of boxes."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": torch.zeros(3, 4 + index, 5), "boxes": torch.full((index, 4), index)}


def test_batches_are_what_collate_makes() -> None:
    def of_boxes(samples: list[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
        return {name: [sample[name] for sample in samples] for name in ("image", "boxes")}

    options: dict[str, Any] = {"batch_size": 4, "shuffle": False, "val_fraction": None}
    data = DatasetDataModule(Boxes(), collate_fn=of_boxes, test_fraction=None, **options)
    batches = served(data)
    assert [[len(boxes) for boxes in batch["boxes"]] for batch in batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        served(DatasetDataModule(Boxes(), **options))
    batch = served(DatasetDataModule(Numbers(4), **{**options, "test_fraction": None}))[0]
    assert torch.equal(batch[0], torch.arange(4))  # PyTorch's own: a list of tensors
    assert len(batch) == 4


# Classes.


class Pets(Numbers):
    classes = ("cat", "dog")


def test_classes_are_numbered_alike() -> None:
    assert numbers().class_names is None  # before any is made
    with pytest.raises(ValueError) as error:  # noqa: PT011
        served(DatasetDataModule([Numbers(), Pets()]))
    assert str(error.value) == (
        "dataset[1]: its class 0 is cat, but even in dataset[0]. Number the classes alike."
    )
    served(data := DatasetDataModule(train=Numbers(), test=lambda: Numbers(3)))
    assert data.class_names == ["even", "odd"]


def test_all_parts_are_made_before_training() -> None:
    data = DatasetDataModule(train=Numbers(), val=Numbers(), test=Pets())
    data.trainer = trainer("train")
    with pytest.raises(ValueError, match=r"^test: its class 0 is cat, but even in train\."):
        data.prepare_data()
    data = DatasetDataModule(train=Numbers(), test=no_files)
    data.trainer = trainer("train")
    with pytest.raises(ValueError, match=r"^test: photos: no such folder"):
        data.prepare_data()
    data = DatasetDataModule(train=no_files, test=Numbers(3), collate_fn=tuples)
    assert places(served(data, "test")) == [[0, 1, 2]]  # with which training has nothing to do


# What cannot be served.


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[int]:
        yield 0


class NoLength(Dataset[Any]):
    def __getitem__(self, index: int) -> int:
        return index


def no_files() -> Dataset[Any]:
    raise FileNotFoundError("photos: no such folder")


def crashes() -> Dataset[Any]:
    return Numbers(int("ten"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "dataset: missing. Give the path of a Dataset's class, or train."),
        ({"val": Numbers()}, "dataset: missing. Give the path of a Dataset's class, or train."),
        (
            {"dataset": Numbers(), "val": Numbers()},
            "dataset: given beside val. Give train in its place.",
        ),
        ({"dataset": []}, "dataset: empty. Give at least one."),
        (
            {"train": Numbers(), "val_fraction": 0},
            "val_fraction: 0 is not in (0, 1). Null: none.",
        ),
        (
            {"dataset": Numbers(), "val_fraction": 0.5, "test_fraction": 0.5},
            "val_fraction: 0.5 with test_fraction leaves no training.",
        ),
        (
            {"dataset": Numbers(), "sampler": RandomSampler, "weighted_sampling": True},
            "weighted_sampling: given beside sampler. Give one of them.",
        ),
        (
            {"dataset": Numbers(), "batch_sampler": BatchSampler, "drop_last": True},
            "drop_last: is up to batch_sampler, which makes the batches.",
        ),
        ({"dataset": Numbers(), "batch_size": 0}, "batch_size: 0 is not at least 1."),
    ],
)
def test_constructor_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        DatasetDataModule(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            Stream,
            "train: Stream has no samples by their numbers (`__getitem__`). "
            "Serve it by a LightningDataModule of your own.",
        ),
        (NoLength, "train: NoLength does not tell its length. Give it a `__len__`."),
        (lambda: Numbers(0), "train: Numbers is empty. Give one with samples."),
        (partial(Numbers, num=0), "train: Numbers(num=0) is empty. Give one with samples."),
        (no_files, "train: photos: no such folder"),
    ],
)
def test_what_is_no_dataset(dataset: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        served(DatasetDataModule(train=dataset))
    assert str(error.value) == message


def test_a_crash_is_a_crash() -> None:
    with pytest.raises(ValueError, match=r"^invalid literal for int"):
        served(DatasetDataModule(train=crashes))


def test_samples_to_try_a_model_with() -> None:
    data = DatasetDataModule(TensorDataset(torch.arange(20.0).reshape(10, 2), torch.zeros(10)))
    assert data.example_inputs(3).shape == (3, 2)
    with pytest.raises(ValueError, match="collate_fn: gives batches that do not begin with a ten"):
        DatasetDataModule(Boxes(), collate_fn=list).example_inputs(2)
