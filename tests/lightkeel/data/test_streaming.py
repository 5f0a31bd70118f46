"""Data sets of litdata, made by its own ``optimize`` and read from a local folder."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from lightkeel.data.streaming import StreamingDataModule
from src.train import main as train
from tests.lightkeel.commands import TRAIN, TWO, fails, finish, same, start
from tests.lightkeel.conftest import TINY
from tests.lightkeel.data.serving import trainer

NUM_SAMPLES = 96


def sample(number: int) -> tuple[torch.Tensor, int]:
    """Make a point near a corner, and its class."""
    return torch.eye(4)[number % 3] + number / 1000, number % 3


def number_of(points: torch.Tensor) -> list[int]:
    return [round(value * 1000) for value in points[:, 3].tolist()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 96 samples in 12 chunks."""
    litdata = pytest.importorskip("litdata")
    made = tmp_path_factory.mktemp("streamed") / "points"
    inputs = list(range(NUM_SAMPLES))
    options: dict[str, Any] = {"chunk_size": 8, "num_workers": 1, "start_method": "fork"}
    litdata.optimize(sample, inputs, output_dir=str(made), **options)
    return made


def epochs(data: StreamingDataModule, number: int = 1, split: str = "train") -> list[list[int]]:
    """Numbers of the samples in each batch of each epoch, behind one another."""
    stub = data.trainer = trainer()
    data.prepare_data()
    loader: Any = getattr(data, f"{split}_dataloader")()
    batches = []
    for stub.current_epoch in range(number):
        batches += [number_of(points) for points, _ in loader]
    return batches


@pytest.mark.extras
def test_each_sample_once_in_the_order_of_seed_and_epoch(folder: Path) -> None:
    served = epochs(StreamingDataModule(str(folder), batch_size=16, seed=3), number=2)
    assert [len(batch) for batch in served] == [16] * 12
    first, second = ([*chain(*batches)] for batches in (served[:6], served[6:]))
    assert sorted(first) == sorted(second) == list(range(NUM_SAMPLES))
    assert first != second
    assert epochs(StreamingDataModule(str(folder), batch_size=16, seed=3)) == served[:6]
    assert epochs(StreamingDataModule(str(folder), batch_size=16, seed=4)) != served[:6]
    evaluated = epochs(StreamingDataModule(str(folder), str(folder), seed=3), split="val")
    assert [*chain(*evaluated)] == list(range(NUM_SAMPLES))


@pytest.mark.extras
def test_options_reach_litdata(folder: Path) -> None:
    options: dict[str, Any] = {
        "shuffle": False,
        "subsample": 0.5,
        "transform": lambda pair: (-pair[0], pair[1]),
    }
    data = StreamingDataModule(str(folder), batch_size=24, num_workers=2, timeout=60, **options)
    loader = data.train_dataloader()
    batches = [number_of(-points) for points, _ in loader]
    assert [len(batch) for batch in batches] == [24, 24]
    assert (loader.num_workers, loader.timeout, data.global_batch_size) == (2, 60, 24)
    assert data.val_dataloader() == data.test_dataloader() == []


def options(folder: Path, runs: Path) -> list[str]:
    """Options of a run of two epochs of six batches each."""
    data = ["--data", "lightkeel.data.streaming.StreamingDataModule", "--data.batch_size", "16"]
    data += [
        word
        for name in ("input_dir", "val_input_dir", "test_input_dir")
        for word in (f"--data.{name}", str(folder))
    ]
    often = ["--callbacks.checkpoint.every_n_steps", "1", "--runs_dir", str(runs)]
    return [*TINY, *data, *often, "--model.lr_scheduler", "null"]


def killed(**settings: object) -> list[str]:
    """Options for a callback that ends the process."""
    words = [f"--trainer.callbacks.{name}={value}" for name, value in settings.items()]
    return ["--trainer.callbacks=tests.lightkeel.killed.Killed", "--run_name=parts", *words]


def resume(run: Path) -> list[str]:
    return ["--resume", str(run), "--trainer.callbacks", "null", "--runs_dir", str(run.parents[1])]


@pytest.mark.extras
@pytest.mark.parametrize("num_workers", [0, 2])
def test_crashed_and_resumed(num_workers: int, folder: Path, tmp_path: Path) -> None:
    """Within an epoch and between two: the weights are those of one run."""
    workers = ["--data.num_workers", str(num_workers)]
    whole = tmp_path / "whole"
    assert train([*options(folder, whole), *workers, "--run_name", "whole"]) == 0
    for step in (4, 6, 9):
        args = [*options(folder, tmp_path / str(step)), *workers]
        with pytest.raises(RuntimeError, match=r"^crash$"):
            train([*args, *killed(rank=0, step=step, crash="true")])
        run = tmp_path / str(step) / "tiny/parts"
        assert train(resume(run)) == 0
        assert same(run, whole / "tiny/whole"), step


@pytest.mark.extras
@pytest.mark.slow
def test_two_devices_killed_and_resumed(folder: Path, tmp_path: Path) -> None:
    args = [*options(folder, tmp_path), *TWO]
    whole, parts = (tmp_path / "tiny" / name for name in ("whole", "parts"))
    finish(start(*TRAIN, *args, *killed(rank=0, step=4)), status=None)
    errors = finish(start(*TRAIN, *args, "--run_name", "whole"))
    assert "data.val_input_dir: each of 2 devices has 48 samples" in errors
    finish(start(*TRAIN, *resume(parts)))
    assert same(parts, whole)


def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightkeel.data.streaming.find_spec", lambda name: object())
    missing = f"data.input_dir: {tmp_path / 'x'} holds no data set of litdata (index.json). "
    fix = "Make it with litdata.optimize."
    args = options(tmp_path / "x", tmp_path / "runs")
    fails(train, args, f"{missing}{fix}", capsys)
    data = StreamingDataModule("x", batch_size=15)
    data.trainer = trainer(devices=2)
    with pytest.raises(ValueError, match=r"^batch_size: 15 samples cannot be shared by 2 devices"):
        data.prepare_data()
    with pytest.raises(ValueError, match=r"^subsample: 2 is not in \(0, 1\]\.$"):
        StreamingDataModule("x", subsample=2)
    with pytest.raises(ValueError, match=r"^timeout: 5 needs worker processes\. Set num_workers t"):
        StreamingDataModule("x", timeout=5)
    monkeypatch.undo()
    monkeypatch.setattr("lightkeel.data.streaming.find_spec", lambda name: None)
    needs = "data: StreamingDataModule needs litdata, which is not installed."
    fails(train, args, f"{needs}\n  Run `make setup ADD=litdata`.", capsys)
    assert not (tmp_path / "runs").exists()
