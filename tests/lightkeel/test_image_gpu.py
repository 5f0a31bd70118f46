"""Images on a GPU: that of the machine, or where it has none, a pretended one."""

import csv
import io
import json
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightkeel.callbacks import graph_capture, graphed_step
from lightkeel.callbacks.graph_capture import Run
from src import evaluate, export, models, predict
from src.data import SyntheticImageDataModule
from src.train import main as train
from tests.lightkeel.commands import experiment
from tests.lightkeel.data.serving import trainer
from tests.lightkeel.on_gpu import Calls, Work, any_gpu, resumed_like_whole
from tests.lightkeel.pretended_gpu import PretendedGPU
from tests.lightkeel.small import make_images

IMAGES = [
    *experiment("cifar10_synthetic"),
    *("--data.num_samples", "64", "--data.num_val_samples", "16"),
    *("--data.num_test_samples", "16", "--data.batch_size", "16", "--model.channels", "[4,4]"),
    *("--trainer.log_every_n_steps", "3", "--callbacks.plots", "null", "--run_name", "r"),
]


def images_of(folder: Path, number: int = 3) -> list[str]:
    """Make image files, and return their paths."""
    paths = [folder / f"{place}.png" for place in range(number)]
    for place, path in enumerate(paths):
        Image.new("RGB", (32, 32), (80 * place, 0, 255 - 80 * place)).save(path)
    return [str(path) for path in paths]


def work_of_steps(gpu: PretendedGPU | None, folder: Path, *options: str) -> list[tuple[int, int]]:
    """Count operations and waits of the first four of five steps of an epoch."""
    if gpu is None:
        pytest.skip("a real GPU does not tell what it ran; the pretended one does")
    Work.gpu, Work.so_far = gpu, []
    args = [*IMAGES, "--trainer.max_epochs", "1", "--trainer.callbacks+", f"{Work.__module__}.Work"]
    args += ["--data.num_samples", "80", "--trainer.log_every_n_steps", "100"]
    args += ["--trainer.limit_val_batches", "0", "--callbacks.checkpoint.monitor", "null"]
    args += ["--callbacks.early_stopping", "null", "--runs_dir", str(folder), *options]
    assert train(args) == 0
    return [
        (operations - before, waits - waits_before)
        for (before, waits_before), (operations, waits) in pairwise(Work.so_far)
    ]


def test_a_step_takes_few_operations(gpu: PretendedGPU | None, tmp_path: Path) -> None:
    steps = work_of_steps(gpu, tmp_path)
    # The first shows its images and makes the state of the optimizer. Batches are made beforehand.
    assert len(steps) == 4
    assert max(operations for operations, _ in steps[1:]) <= 70  # 48: network and loss, both ways
    assert [waits for _, waits in steps[1:]] == [0, 0, 0]


def test_beside_a_graph_a_step_takes_few_operations(
    gpu: PretendedGPU | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the graph is one launch; here, nothing at all."""

    def record(run: Run) -> Callable[[], None]:
        run()
        return lambda: None

    monkeypatch.setattr(graphed_step, "record", record)
    monkeypatch.setattr(graph_capture, "no_waits", lambda device: nullcontext())
    steps = work_of_steps(gpu, tmp_path, "--callbacks.cuda_graph.warm_up_steps", "1")
    # Two copies of the batch, one of the loss that is logged, one of the output; two groups of
    # parameters take two operations each.
    assert steps[2:] == [(8, 0), (8, 0)]


def test_a_step_takes_few_calls(tmp_path: Path) -> None:
    Calls.so_far = []
    args = [*IMAGES, "--trainer.max_epochs", "1", "--runs_dir", str(tmp_path)]
    args += ["--trainer.callbacks+", f"{Calls.__module__}.Calls", "--trainer.accelerator", "cpu"]
    args += ["--data.device_resident", "true", "--model.optimizer.fused", "true"]  # as on a GPU
    args += ["--data.num_samples", "80", "--trainer.log_every_n_steps", "100"]
    assert train(args) == 0
    # The first shows its images and makes the state of the optimizer.
    _, _, *steps = Calls.so_far
    assert len(steps) == 3
    assert max(steps) <= 1330  # 1,304 to 1,317 with Python 3.11 and PyTorch 2.15


def test_batches_are_those_of_the_cpu(gpu: PretendedGPU | None) -> None:
    augment = {"random_crop": {"pad_px": 2}, "alternating_flip": None}
    found = []
    for device in ("cuda", "cpu"):
        data = SyntheticImageDataModule(num_samples=40, batch_size=16, seed=3, augment=augment)
        data.trainer = trainer(epoch=1, device=device)
        data.setup("fit")
        assert data.datasets["train"].is_resident is (device == "cuda")
        loader: Any = data.train_dataloader()
        loader.sampler.set_epoch(1)
        before = len(gpu.waits) if gpu else 0
        batches = [
            data.on_after_batch_transfer(
                data.transfer_batch_to_device(batch, torch.device(device), 0), 0
            )
            for batch in loader
        ]
        assert gpu is None or len(gpu.waits) == before
        assert all(part.device.type == device for batch in batches for part in batch)
        # Pixels, for numbers of a GPU are rounded in another way.
        found.append([(data.pixels(x).tolist(), y.tolist()) for x, y in batches])
    assert found[0] == found[1]


@pytest.mark.slow  # of another optimizer: test_gpu.py
def test_muon_resumes_within_an_epoch(gpu: PretendedGPU | None, tmp_path: Path) -> None:
    args = [*IMAGES, "--model.optimizer", "{name: MuonSGD, lr: 0.05}", "--trainer.max_epochs", "2"]
    # PyTorch may have no such form of max pooling.
    args += ["--trainer.deterministic", "warn"] if gpu is None else []
    assert resumed_like_whole(args, tmp_path, models.SimpleCNN, step=5) == []


@pytest.mark.slow
def test_images_are_evaluated_predicted_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, files = str(tmp_path / "cifar10_synthetic/r"), images_of(tmp_path)
    with any_gpu() as gpu:
        assert train([*IMAGES, "--trainer.max_epochs", "1", "--runs_dir", str(tmp_path)]) == 0
        metrics = json.loads(Path(run, "metrics.json").read_text())
        assert evaluate.main([run]) == 0
        again = json.loads(Path(run, "evaluation/best/test/metrics.json").read_text())
        assert again["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)
        capsys.readouterr()
        before = len(gpu.waits) if gpu else 0
        assert predict.main([run, *files]) == 0
        on_gpu = capsys.readouterr()
        if gpu is not None:
            assert len(gpu.waits) == before + 1  # a batch is read at once
        assert predict.main([run, *files, "--device", "cpu"]) == 0
        if gpu is not None:
            assert len(gpu.waits) == before + 1  # it was not used
        assert export.main([run, "--format", "ckpt"]) == 0
    capsys.readouterr()
    assert on_gpu.err == ""
    # Without a GPU, the files of a run on one are read all the same.
    assert predict.main([run, *files, "--device", "cpu"]) == 0
    rows, expected = (
        list(csv.DictReader(io.StringIO(text))) for text in (on_gpu.out, capsys.readouterr().out)
    )
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
    assert export.main([run, "--format", "torch"]) == 0


@pytest.mark.slow
def test_benchmark(
    gpu: PretendedGPU | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = pytest.importorskip("benchmarks.gpu_cifar10")  # generated projects have none
    make_images(tmp_path / "images", num_classes=10)
    parts = ["batch-128", "profile", "fast"]  # and what cannot be pretended, or takes long
    parts += ["default", "fast-compiled"] if gpu is None else []
    given = ["--quick", "--data-dir", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    benchmark.main([*given, "--part", *parts])
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    assert sorted(found) == sorted(parts)
    assert len(found["batch-128"]["ours"]["first"]) == len(found["batch-128"]["raw"]["later"]) == 1
    assert found["profile"]["ours"]["python_calls_a_step"] > 0
    assert 0 <= found["fast"]["runs"][0]["accuracy"] <= 1
    assert "FastCNN, time to accuracy" in capsys.readouterr().out
