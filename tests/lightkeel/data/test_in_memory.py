from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightkeel.data import in_memory
from lightkeel.data.in_memory import Arrays, InMemoryDataModule, Sample, Split
from tests.lightkeel.data.serving import SPLITS, serve, targets, trainer


class Numbers(InMemoryDataModule):
    """Inputs 0, 10, 20, ... and classes 0 0 0 0 0 0 0 0 1 1 for train, 5 and 3 samples beside."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"seed": 0, "batch_size": 4, "shuffle": False, **kwargs})
        self.loaded: list[str] = []

    def load(self, source: str) -> Arrays:
        self.loaded.append(source)
        numbers = torch.arange({"train": 10, "val": 5, "test": 3}[source])
        return Arrays(numbers * 10, numbers // 8)


def inputs(batches: list[tuple[Tensor, Tensor]]) -> list[list[int]]:
    return [batch.tolist() for batch, _ in batches]


def loader_of(data: InMemoryDataModule, device: str = "cpu") -> DataLoader[Any]:
    data.trainer = trainer(device=device)
    data.setup("fit")
    return data.train_dataloader()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0 is not at least 1."),
        ({"val_batch_size": 0}, "val_batch_size: 0 is not at least 1."),
        ({"num_workers": 1, "prefetch_factor": 0}, "prefetch_factor: 0 is not at least 1."),
        ({"subset": 0}, "subset: 0 is neither a count >= 1 nor a share in (0, 1]."),
        ({"subset": -0.5}, "subset: -0.5 is neither a count >= 1 nor a share in (0, 1]."),
        ({"subset": 1.5}, "subset: 1.5 is neither a count >= 1 nor a share in (0, 1]."),
        ({"num_workers": -1}, "num_workers: -1 is not at least 0."),
        ({"timeout_s": -2, "num_workers": 1}, "timeout: -2 is not at least 0."),
        (
            {"persistent_workers": True},
            "persistent_workers: True needs worker processes. Set num_workers too.",
        ),
        (
            {"prefetch_factor": 2},
            "prefetch_factor: 2 needs worker processes. Set num_workers too.",
        ),
        ({"timeout_s": 9}, "timeout: 9 needs worker processes. Set num_workers too."),
        (
            {"collate_fn": list, "device_resident": True},
            "collate_fn: runs before the device. Set device_resident to false.",
        ),
    ],
)
def test_constructor_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole message is compared)
        Numbers(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "devices", "message"),
    [
        ({"batch_size": 6}, 4, "batch_size: 6 samples cannot be shared by 4 devices. Use 4 or 8."),
        ({"batch_size": 3}, 4, "batch_size: 3 samples cannot be shared by 4 devices. Use 4."),
        (
            {"batch_size": 8, "val_batch_size": 9},
            2,
            "val_batch_size: 9 samples cannot be shared by 2 devices. Use 8 or 10.",
        ),
    ],
)
def test_batches_that_devices_cannot_share(
    settings: dict[str, int], devices: int, message: str
) -> None:
    data = Numbers(**settings)
    data.trainer = trainer(devices=devices)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        data.prepare_data()
    assert str(error.value) == message
    data.trainer = trainer(devices=1)
    data.prepare_data()


def test_batches_of_each_split_written_out() -> None:
    data = Numbers(val_batch_size=2)
    assert inputs(serve(data, "train")) == [[0, 10, 20, 30], [40, 50, 60, 70], [80, 90]]
    assert targets(serve(data, "train")) == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1]]
    assert inputs(serve(data, "val")) == [[0, 10], [20, 30], [40]]
    assert inputs(serve(data, "test")) == [[0, 10], [20]]
    assert inputs(serve(Numbers(), "val")) == [[0, 10, 20], [30, 40]]
    assert inputs(serve(Numbers(), devices=2, rank=1)) == [[20, 30], [60, 70], [90]]
    assert inputs(serve(Numbers(drop_last=True))) == [[0, 10, 20, 30], [40, 50, 60, 70]]
    assert data.global_batch_size == 4


def test_shuffling_is_a_function_of_seed_and_epoch() -> None:
    def order(epoch: int, **settings: Any) -> list[list[int]]:
        return inputs(serve(Numbers(shuffle=True, batch_size=10, **settings), epoch=epoch))

    assert order(0) == [[30, 40, 0, 70, 20, 90, 80, 60, 10, 50]]
    assert order(1) == [[60, 90, 20, 10, 70, 80, 30, 50, 40, 0]]
    assert order(0, seed=1) == [[80, 40, 30, 60, 90, 50, 70, 20, 10, 0]]


@pytest.mark.parametrize(
    "settings", [{}, {"num_workers": 2, "persistent_workers": True}, {"device_resident": True}]
)
def test_a_resumed_epoch_goes_on_where_it_stopped(settings: dict[str, Any]) -> None:
    def order(batches_done: int) -> list[list[int]]:
        data = Numbers(shuffle=True, **settings)
        return inputs(serve(data, epoch=1, batches_done=batches_done))

    whole = order(0)
    assert [len(batch) for batch in whole] == [4, 4, 2]
    assert [order(done) for done in (1, 2, 3)] == [whole[1:], whole[2:], []]


def test_seed_is_that_of_the_run_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert Numbers(seed=None).seed == 7
    assert Numbers(seed=0).seed == 0
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert Numbers(seed=None).seed == 0


def test_count_that_was_read_as_a_float() -> None:
    """Which type is tried first depends on the unions of both that the process has seen."""
    counts = [len(targets(serve(Numbers(subset=n, batch_size=10)))[0]) for n in (7, 7.0, 1.0, 0.7)]
    assert counts == [7, 7, 10, 7]


@pytest.mark.parametrize(
    ("subset", "seed", "expected"),
    [
        (3, 0, [40, 50, 90]),
        (3, 1, [20, 60, 80]),
        (0.3, 0, [40, 50, 90]),
        (0.01, 0, [40]),
        (1.0, 0, list(range(0, 100, 10))),
        (10, 0, list(range(0, 100, 10))),
    ],
)
def test_subset(subset: float, seed: int, expected: list[int]) -> None:
    data = Numbers(subset=subset, seed=seed, batch_size=10)
    assert inputs(serve(data)) == [expected]
    assert inputs(serve(data, "val")) == [[0, 10, 20, 30, 40]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset": 11}, "subset: 11 is more than the 10 training samples."),
        (
            {"batch_size": 11, "drop_last": True},
            "batch_size: 11 with drop_last leaves no batch of 10 training samples. "
            "Use a smaller batch_size, or set drop_last to false.",
        ),
    ],
)
def test_settings_that_the_data_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        serve(Numbers(**settings))
    assert str(error.value) == message


def test_fewer_samples_than_devices() -> None:
    with pytest.raises(
        ValueError, match=r"^test split: 3 samples cannot be shared by 4 devices\. "
    ):
        serve(Numbers(), "test", devices=4)


@pytest.mark.parametrize(("subset", "n"), [(None, 300 * 10), (5, 300 * 5)])
def test_weighted_sampling_balances_the_training_split_alone(subset: int | None, n: int) -> None:
    data = Numbers(weighted_sampling=True, shuffle=True, batch_size=10, subset=subset)
    ones = sum(sum(targets(serve(data, epoch=epoch))[0]) for epoch in range(300))
    assert abs(ones - n / 2) < 4 * (n / 4) ** 0.5  # unweighted: n / 5
    assert inputs(serve(data, "val")) == [[0, 10, 20, 30, 40]]


def test_collate_fn_makes_the_batches() -> None:
    seen: list[list[Sample]] = []

    def collate(samples: list[Sample]) -> tuple[Tensor, Tensor]:
        seen.append(samples)
        return torch.stack([x for x, _ in samples]) + 1, torch.stack([y for _, y in samples]) - 1

    batches = serve(Numbers(collate_fn=collate))
    assert inputs(batches) == [[1, 11, 21, 31], [41, 51, 61, 71], [81, 91]]
    assert targets(batches) == [[-1, -1, -1, -1], [-1, -1, -1, -1], [0, 0]]
    assert [(x.item(), y.item()) for x, y in seen[2]] == [(80, 1), (90, 1)]


def test_loader_options_reach_the_loader() -> None:
    options = {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3}
    loader = loader_of(Numbers(**options, timeout_s=30, pin_memory=True))
    assert {name: getattr(loader, name) for name in options} == options
    assert (loader.timeout, loader.pin_memory, loader.batch_size) == (30, True, None)
    plain = loader_of(Numbers())
    assert (plain.num_workers, plain.timeout, plain.prefetch_factor) == (0, 0, None)


@pytest.mark.parametrize(
    ("pin_memory", "device", "expected"),
    [
        (None, "cpu", False),
        (None, "cuda", True),
        (False, "cuda", False),
        (True, "cpu", True),
    ],
)
def test_memory_is_pinned_for_gpus(pin_memory: bool | None, device: str, expected: bool) -> None:
    data = Numbers(pin_memory=pin_memory, device_resident=False)
    assert loader_of(data, device).pin_memory is expected


def test_device_resident_batches_are_those_of_others() -> None:
    for split in SPLITS:
        data = Numbers(device_resident=True)
        assert inputs(serve(data, split)) == inputs(serve(Numbers(), split))
        assert targets(serve(data, split)) == targets(serve(Numbers(), split))
    assert inputs(serve(Numbers(device_resident=True, shuffle=True), epoch=1)) == [
        [60, 90, 20, 10],
        [70, 80, 30, 50],
        [40, 0],
    ]


@pytest.mark.parametrize(
    ("block_bytes", "batches_done", "expected"),
    [
        (1, 0, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
        (2 * 4 * 4, 0, [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9]]),
        # The same block as in a whole pass: slices begin at the same places of memory.
        (2 * 4 * 4, 1, [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9]]),
        (2 * 4 * 4, 2, [[8, 9]]),
        (2**20, 0, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]),
    ],
)
def test_device_resident_batches_are_made_in_blocks(
    block_bytes: int, batches_done: int, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_memory, "BLOCK_BYTES", block_bytes)
    made: list[list[int]] = []

    class Noted(Numbers):
        def transform(self, inputs: Tensor, rows: Tensor, split: Split) -> Tensor:
            made.append(rows.tolist())
            return inputs + 1

    found = inputs(serve(Noted(device_resident=True), batches_done=batches_done))
    assert found == [[1, 11, 21, 31], [41, 51, 61, 71], [81, 91]][batches_done:]
    assert made == expected


@pytest.mark.parametrize(
    ("settings", "device", "free", "expected"),
    [
        ({}, "cuda", 4, True),
        ({}, "cuda", 3.9, False),
        ({}, "cpu", 1000, False),
        ({"device_resident": False}, "cuda", 1000, False),
        ({"device_resident": True}, "cuda", 0, True),
        ({"collate_fn": list}, "cuda", 1000, False),
    ],
)
def test_arrays_live_on_a_gpu_with_room(
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    device: str,
    free: float,
    expected: bool,
) -> None:
    """Room: four times their bytes are free."""
    data = Numbers(**settings)
    size = sum(array.nbytes for array in data.load("train"))
    info = (int(free * size), 10**12)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: info)
    data.trainer = trainer(device=device)
    data.setup("fit")
    assert data.datasets["train"].is_resident is expected


def test_other_batches_pass_through() -> None:
    assert Numbers().on_after_batch_transfer("predicted", 0) == "predicted"


@pytest.mark.parametrize(
    ("split", "sources"), [("train", ["train", "val"]), ("val", ["val"]), ("test", ["test"])]
)
def test_only_what_is_needed_is_loaded(split: Split, sources: list[str]) -> None:
    data = Numbers()
    serve(data, split)
    serve(data, split)
    assert data.loaded == sources
    assert data.needed() == sources


class Shared(Numbers):
    """Numbers whose splits are all of one source."""

    def source(self, split: Split) -> str:
        return "train"


def test_a_shared_source_is_loaded_once() -> None:
    data = Shared(device_resident=True)
    for split in SPLITS:
        assert sum(len(batch) for batch in inputs(serve(data, split))) == 10
    assert data.loaded == ["train"]
    assert data.needed() == ["train"]


def test_split_rows_written_out() -> None:
    parts = Numbers().split_rows(10, val=0.2, test=0.1)
    found = {name: rows.tolist() for name, rows in parts.items()}
    assert found == {"val": [3, 5], "test": [7], "train": [0, 1, 2, 4, 6, 8, 9]}
    assert Numbers(seed=2).split_rows(10, val=0.2)["val"].tolist() == [0, 9]
    assert len(Numbers().split_rows(10, val=0.01)["val"]) == 1
    with pytest.raises(ValueError, match=r"^val and test: would take all of the 2 samples\.$"):
        Numbers().split_rows(2, val=0.1, test=0.1)


class Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[str, int, list[int]]] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen.append(("train", self.current_epoch, batch[0].tolist()))
        return self.weight

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.seen.append(("val", self.current_epoch, batch[0].tolist()))

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.seen.append(("test", self.current_epoch, batch[0].tolist()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Marked(Numbers):
    """Numbers to which the split that they are taken for is added."""

    def transform(self, inputs: Tensor, rows: Tensor, split: Split) -> Tensor:
        return inputs + {"train": 1, "val": 2, "test": 3}[split]


def quiet_trainer(folder: Path, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        max_epochs=2,
        **settings,
    )


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_gets_each_split_for_what_it_is(tmp_path: Path) -> None:
    model, data = Recorder(), Marked(batch_size=10, shuffle=True)
    run = quiet_trainer(tmp_path, num_sanity_val_steps=1)
    run.fit(model, datamodule=data)
    val = [2, 12, 22, 32, 42]
    first = [31, 41, 1, 71, 21, 91, 81, 61, 11, 51]
    second = [61, 91, 21, 11, 71, 81, 31, 51, 41, 1]
    assert model.seen == [
        ("val", 0, val),
        ("train", 0, first),
        ("val", 0, val),
        ("train", 1, second),
        ("val", 1, val),
    ]
    model.seen.clear()
    run.validate(model, datamodule=data, verbose=False)
    run.test(model, datamodule=data, verbose=False)
    assert [(split, batch) for split, _, batch in model.seen] == [
        ("val", val),
        ("test", [3, 13, 23]),
    ]


@pytest.mark.filterwarnings("ignore")
def test_overfit_batches_repeats_the_same_whole_batches(tmp_path: Path) -> None:
    model = Recorder()
    run = quiet_trainer(tmp_path, num_sanity_val_steps=0, overfit_batches=2)
    run.fit(model, datamodule=Numbers(shuffle=True))
    assert model.seen == [
        (split, epoch, batch)
        for epoch in (0, 1)
        for split, batch in [
            ("train", [0, 10, 20, 30]),
            ("train", [40, 50, 60, 70]),
            ("val", [0, 10, 20]),
            ("val", [30, 40]),
        ]
    ]
