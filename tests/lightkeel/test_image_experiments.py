"""Images at the command line: what is refused, and what crops and flips may not change."""

import shutil
import struct
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from lightkeel.callbacks.image_summaries import to_pixels
from src import train
from src.data import SyntheticImageDataModule
from src.models import SimpleCNN
from tests.lightkeel.commands import (
    alone_and_together,
    assert_close,
    experiment,
    fails,
    same,
    stop_in_step,
)
from tests.lightkeel.conftest import TINY
from tests.lightkeel.data.pictures import needs_cifar10
from tests.lightkeel.soak import resume_everywhere, survives_kills

CIFAR = experiment("cifar10_synthetic")  # nothing to download
# Small enough for tests, with every moving part of the CIFAR-10 experiment.
TINY_IMAGES = [
    *CIFAR,
    *("--data.num_samples", "96", "--data.num_val_samples", "20", "--data.num_test_samples", "30"),
    *("--data.batch_size", "32", "--data.val_batch_size", "16", "--model.channels", "[4,4]"),
    *("--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"),
    *("--callbacks.plots", "null"),
]

CASES: list[tuple[str, list[str], str]] = [
    (
        "unknown option of a model",
        [*CIFAR, "--model.optmizer.lr", "1"],
        "model.optmizer: SimpleCNN has no such option. Did you mean `optimizer`?",
    ),
    (
        "wrong type, list",
        [*CIFAR, "--model.channels", "32"],
        "model.channels: `32` has the wrong type. Give list.",
    ),
    (
        "no such choice",
        [*CIFAR, "--model.activation", "rellu"],
        "model.activation: `rellu` is not a choice. Did you mean `relu`?",
    ),
    (
        "zero channels",
        [*CIFAR, "--model.channels", "[32,0]"],
        "model.channels[1]: 0 is not at least 1.",
    ),
    (
        "image too small for the network",
        [*CIFAR, "--model.image_size_px", "8"],
        "model.image_size_px: 8 is too small for 2 convolutions with pooling. "
        "Use at least 10, or fewer `channels`.",
    ),
    (
        "model for images, data without",
        [*TINY, "--model", "SimpleCNN", "--model.num_classes", "3"],
        "model.in_channels: 3, but TinyData has none.",
    ),
    (
        "unknown augmentation",
        [*CIFAR, "--data.augment", "{random_crp: {pad_px: 2}}"],
        "data.augment.random_crp: no such augmentation. Did you mean `random_crop`?",
    ),
    (
        "augmentation out of range",
        [*CIFAR, "--data.augment", "{random_crop: {pad_px: 40}}"],
        "data.augment.random_crop.pad_px: 40 is not in [0, 32).",
    ),
]


@pytest.mark.parametrize(("args", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_settings_that_are_refused(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    fails(train.main, [*args, "--runs_dir", str(runs)], message, capsys)
    assert not runs.exists()


def make_images(folder: Path, size: int = 32) -> Path:
    for split in ("train", "test"):
        for number in range(10):
            place = folder / split / f"class{number}"
            place.mkdir(parents=True)
            for name in ("a.png", "b.png"):
                Image.new("RGB", (size, size), (number, 0, 0)).save(place / name)
    return folder


@needs_cifar10
def test_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def expect(message: str, data: Path) -> None:
        args = [
            *experiment("cifar10"),
            "--data.data_dir",
            str(data),
            "--runs_dir",
            str(tmp_path / "runs"),
        ]
        fails(train.main, args, f"data{message}", capsys)
        assert not (tmp_path / "runs").exists()

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    missing = tmp_path / "missing"
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", offline)
    expect(
        f".data_dir: {missing} holds no CIFAR-10, and the download failed: no network.\n"
        "  Put cifar-10-python.tar.gz or class folders train/<class>/ and test/<class>/ there, "
        "or train offline with --config cifar10_synthetic.",
        missing,
    )
    archive = tmp_path / "cut" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(b"\x1f\x8b truncated")
    expect(
        f".data_dir: {archive} is incomplete or not the official archive (its MD5 is not "
        "c58f30108f718f92721af3b95e74349a). Remove it, then download it again.",
        archive.parent,
    )
    images = make_images(tmp_path / "images")
    corrupt = images / "train/class3/b.png"
    whole = corrupt.read_bytes()
    corrupt.write_bytes(whole[:40])
    expect(f": {corrupt} is not a readable image: …", images)
    corrupt.write_bytes(whole)
    for name in ("a.png", "b.png"):
        (images / "train/class5" / name).unlink()
    expect(f": {images}/train/class5 holds no images…", images)
    large = make_images(tmp_path / "large", size=40)
    expect(
        f": {large}/train/class0/a.png is 40 x 40 pixels, not 32 x 32. "
        "Use ImageFolderDataModule for images of other sizes.",
        large,
    )


@pytest.mark.slow  # of data without images, and their shake: test_ddp.py
@pytest.mark.parametrize(
    ("number", "strategy", "options"),
    [
        (2, "ddp", []),
        (4, "ddp", []),
        (2, "fsdp", ["--model.optimizer", "{name: MuonSGD, lr: 0.1}"]),
    ],
    ids=["two", "four", "weights shared out"],
)
def test_processes_crop_and_flip_alike(
    number: int, strategy: str, options: list[str], tmp_path: Path
) -> None:
    sizes = {"num_samples": 99, "num_val_samples": 19, "num_test_samples": 31}  # all odd
    args = [*TINY_IMAGES, *(text for n, v in sizes.items() for text in (f"--data.{n}", str(v)))]
    long = ["--trainer.max_epochs", "5", "--callbacks.gradient_clipping.max_norm", "0.5"]
    chosen = ["--trainer.strategy", strategy]
    one, several = alone_and_together([*args, *long, *options], tmp_path, chosen, ranks=number)
    metrics = ["val/acc", "val/loss", "test/acc", "test/loss", "steps"]
    if number == 2:  # of three samples in a last batch, a fourth device repeats one
        metrics.append("train/loss")
    assert_close(several, one, metrics)


@pytest.mark.parametrize(
    "precision",
    ["bf16-true", *(pytest.param(p, marks=pytest.mark.slow) for p in ("bf16-mixed", "64-true"))],
)
def test_precision(precision: str, tmp_path: Path) -> None:
    """The data make floats of their own, after Lightning has seen to the batch."""
    args = [*TINY_IMAGES, "--runs_dir", str(tmp_path), "--run_name", "run"]
    assert train.main([*args, "--trainer.precision", precision]) == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_compiled_network(tmp_path: Path) -> None:
    """Compiled, it trains to the same weights, under the same names."""
    args = [*TINY_IMAGES, "--runs_dir", str(tmp_path)]
    assert train.main([*args, "--run_name", "plain"]) == 0
    assert train.main([*args, "--run_name", "compiled", "--callbacks.compile", "Compile"]) == 0
    plain, compiled = (
        torch.load(tmp_path / "cifar10_synthetic" / name / "checkpoints/last.ckpt")["state_dict"]
        for name in ("plain", "compiled")
    )
    assert list(plain) == list(compiled)
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@pytest.mark.slow
def test_each_checkpoint_can_be_gone_on_from(tmp_path: Path) -> None:
    settings = ["--callbacks.checkpoint.every_n_steps", "1"]
    args = [*TINY_IMAGES, *settings, "--model.dropout", "0.2"]
    assert resume_everywhere(args, tmp_path) == []


@pytest.mark.slow
@needs_cifar10
def test_fast_cnn_can_be_gone_on_with(tmp_path: Path) -> None:
    """Its first layer is whitened once, and has its bias trained for an epoch."""
    fast = [*experiment("cifar10_fast"), "--data", "SyntheticImageDataModule"]
    data = [*fast, *TINY_IMAGES[2:10]]
    small = ["--model.widths", "[4,4,4]", "--model.whiten_bias_epochs", "1"]
    often = ["--callbacks.checkpoint.every_n_steps", "1", "--trainer.max_epochs", "2"]
    assert resume_everywhere([*data, *small, *often], tmp_path) == []


@pytest.mark.slow
def test_kills(tmp_path: Path) -> None:
    settings = ["--callbacks.checkpoint.every_n_steps", "1", "--trainer.log_every_n_steps", "2"]
    extras = ["--model.dropout", "0.2"]
    survives_kills(6, tmp_path, *TINY_IMAGES, *settings, *extras)


@pytest.mark.slow  # of data without images: test_cli.py
def test_resume_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after step 4 of 3 + 3: learning rate, order and crops depend on the step."""
    args = [*TINY_IMAGES, "--runs_dir", str(tmp_path), "--data.augment", "{random_crop: {}}"]
    assert train.main([*args, "--run_name", "whole"]) == 0
    stop_in_step(SimpleCNN, 3, monkeypatch)
    with pytest.raises(SystemExit, match="143"):
        train.main([*args, "--run_name", "parts"])
    monkeypatch.undo()
    whole, parts = (tmp_path / "cifar10_synthetic" / name for name in ("whole", "parts"))
    assert torch.load(parts / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert train.main(["--resume", str(parts), "--runs_dir", str(tmp_path)]) == 0
    assert same(parts, whole)
    best = whole / "checkpoints" / "best.ckpt"
    model = SimpleCNN.load_from_checkpoint(best, weights_only=True)
    assert model.hparams["channels"] == [4, 4]


@pytest.mark.slow
def test_worst_mistakes_are_drawn(tmp_path: Path) -> None:
    args = [*TINY_IMAGES, "--callbacks.plots", "{class_path: Plots, init_args: {num_worst: 5}}"]
    assert train.main([*args, "--runs_dir", str(tmp_path)]) == 0
    (folder,) = tmp_path.glob("*/*/plots")
    assert {"confusion.png", "worst.png"} < {path.name for path in folder.iterdir()}
    # 720 pixels wide; two rows of four, each 2.15 inches of 120 pixels, under a title
    assert struct.unpack(">II", (folder / "worst.png").read_bytes()[16:24]) == (720, 576)


def test_images_are_drawn_as_they_were() -> None:
    data = SyntheticImageDataModule(num_classes=2, num_samples=4)
    images = data.read("train").inputs
    inputs = data.transform(images, torch.arange(4), "val")
    assert torch.equal(to_pixels(inputs, data).permute(0, 2, 3, 1), images)
