"""Runs on any Dataset: resumed within an epoch, from the command line, on two ranks, killed."""

import json
import re
import shlex
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from lightkeel.callbacks.throughput import Throughput
from lightkeel.data.dataset import DatasetDataModule
from lightkeel.fit.replay import Pass, ReplayLoader
from src.callbacks.gradient_accumulation import GradientAccumulation
from src.evaluate import main as evaluate_command
from src.export import main as export_command
from src.predict import main as predict_command
from src.train import main as train_command
from tests.lightkeel.commands import (
    TWO,
    alone_and_together,
    assert_close,
    fails,
    same,
)
from tests.lightkeel.fitting import Line, fit
from tests.lightkeel.places import ROOT
from tests.lightkeel.soak import survives_kills
from tests.lightkeel.test_exact_resume import (
    BATCH_SIZE,
    Net,
    OwnNumbers,
    Shaken,
    assert_same,
    train,
)

HERE = "tests.lightkeel.test_dataset_runs"
MODEL = ["--model", "tests.lightkeel.tiny.TinyModel", "--model.num_features", "2"]
QUIET = ["--trainer.accelerator", "cpu", "--callbacks.plots", "null"]
POINTS = [
    "--data",
    "DatasetDataModule",
    "--data.dataset",
    f"{HERE}.Points",
    "--data.batch_size",
    "8",
]


class Points(Dataset[Any]):
    """Points about two places, shaken by all random numbers there are."""

    classes = ("left", "right")

    def __init__(self, num: int = 60, shake: float = 0.3) -> None:
        self.samples, self.shake = Shaken(), shake
        self.num = num
        self.targets = [place % 2 for place in range(num)]

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        shake, _ = self.samples[index % len(self.samples)]
        return self.shake * shake + 2 * self.targets[index] - 1, self.targets[index]


class Counted(Shaken):
    """Counts how often it is asked."""

    asked = 0

    def __getitem__(self, index: int) -> Any:
        type(self).asked += 1
        return super().__getitem__(index)


def loader_of(dataset: Any, **options: Any) -> Any:
    """The loader of a datamodule, without its trainer."""
    parts = {"val_fraction": None, "test_fraction": None, "batch_size": BATCH_SIZE}
    data = DatasetDataModule(dataset, **{**parts, **options})
    data.setup("fit")
    return data.train_dataloader()


def with_generator(dataset: Any) -> RandomSampler:
    return RandomSampler(dataset, generator=torch.Generator().manual_seed(3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, 8),  # of the two batches that are left
        ({"num_workers": 2}, 0),
        ({"num_workers": 1, "persistent_workers": True}, 0),
        ({"seed_samples": False}, 24),  # the epoch is repeated
        ({"sampler": lambda data: torch.randperm(len(data))}, 24),
        ({"sampler": RandomSampler, "num_workers": 2, "persistent_workers": True}, 0),
        ({"sampler": with_generator}, 24),
    ],
)
def test_resumed_within_an_epoch(
    options: dict[str, Any],
    asked: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = Trainer.save_checkpoint

    def write_and_copy(self: Trainer, path: Any, *args: Any, **kwargs: Any) -> None:
        write(self, path, *args, **kwargs)
        if self.global_step == 10:  # of 6 in an epoch
            Path(path).rename(tmp_path / "10.ckpt")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", write_and_copy)
        whole = train(tmp_path / "one", Net, lambda: loader_of(Shaken(), **options))
    Counted.asked = 0
    last = tmp_path / "10.ckpt"
    found = train(tmp_path / "two", Net, lambda: loader_of(Counted(), **options), ckpt_path=last)
    whole["rows"] = found["rows"] = ""  # those before are in the other folder
    assert_same(whole, found)
    assert Counted.asked == asked
    assert "not bit for bit" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"in_order": False}, "OwnNumbers.rng (Generator) begins anew"),
        ({"in_order": False, "num_workers": 2}, "batches come as processes have them ready"),
    ],
)
def test_what_is_not_exact_is_said(
    options: dict[str, Any], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, Net, lambda: loader_of(OwnNumbers()), max_epochs=1)
    last = tmp_path / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    train(tmp_path, Net, lambda: loader_of(OwnNumbers(), **options), ckpt_path=last, max_epochs=2)
    said = capsys.readouterr().err
    assert text in said
    assert said.count("not bit for bit") == 1 + ("num_workers" in options)


class Normals(Shaken):
    """One normal a sample, of the two that numpy draws at once."""

    def __getitem__(self, index: int) -> float:
        return float(np.random.randn())


def test_passing_over_draws_as_a_whole_pass_does() -> None:
    def batches(first: int) -> list[float]:
        loader = DataLoader(Normals(), batch_size=3, num_workers=0)
        passes = ReplayLoader([loader], "min_size", lambda: Pass((0, 0, 0), 0, first))
        return [float(batch[0][0][0]) for batch in passes]

    assert batches(3) == batches(0)[3:]


def test_accumulation_weighs_samples_alike(tmp_path: Path) -> None:
    """A step of 2 + 2 + 2 + 1 samples is a step of 7."""
    generator = torch.Generator().manual_seed(0)
    rows = TensorDataset(torch.randn(7, 2, generator=generator), torch.arange(7.0))
    found = []
    steps: list[tuple[int, list[Any]]] = [(7, []), (2, [GradientAccumulation(batches=4)])]
    for size, callbacks in steps:
        parts: dict[str, Any] = {"val_fraction": None, "test_fraction": None, "seed": 0}
        data = DatasetDataModule(rows, batch_size=size, **parts)
        model = Line(2, optimizer={"name": "SGD", "lr": 0.1})
        fit(tmp_path, model, data, *callbacks, max_epochs=3)
        found.append(model.weights)
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0][2] == pytest.approx(1.3613107, abs=1e-6)


class Pictures(Dataset[Any]):
    """Images of 3 channels and of many sizes."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.ones(3, 2 + index, 2)


class TakesLists(Net):
    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        means = torch.stack([image.mean() for image in batch])
        return super().training_step((means[:, None].expand(-1, 2), means), batch_idx)


@pytest.mark.filterwarnings("ignore")
def test_lists_of_images_are_counted(tmp_path: Path) -> None:
    data = DatasetDataModule(Pictures(), batch_size=4, collate_fn=list, val_fraction=0.1)
    measured = Throughput()
    fit(tmp_path, TakesLists(), data, measured, max_epochs=2)
    assert measured.num_samples == 16  # twice 8, and no channel or row


# From the command line.


def make_points(num: int = 4) -> TensorDataset:
    raise RuntimeError("must not be made")


class Pets(Points):
    classes = ("cat", "dog")


def unannotated():  # type: ignore[no-untyped-def]
    return make_points()


class Needs(Points):
    def __init__(self, root, size: int) -> None:  # type: ignore[no-untyped-def]
        raise AssertionError("must not be made")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.dataset", "Nope"], "data.dataset: there is no class `Nope`…"),
        (
            ["--data.dataset", f"{HERE}.Points", "--data.dataset.nun", "4"],
            "data.dataset.nun: Points has no such option. Did you mean `num`?",
        ),
        (
            ["--data.dataset", f"{HERE}.Needs", "--data.dataset.size", "4"],
            "data.dataset.root: Needs needs it. Give it a value.",
        ),
        (
            ["--data.dataset", f"{HERE}.Needs", "--data.dataset.root", "a"],
            "data.dataset.size: Needs needs it. Give it a value.",
        ),
        (
            ["--data.dataset", f"{HERE}.unannotated"],
            f"data.dataset: `{HERE}.unannotated` is no Dataset, nor a function annotated to "
            "return one.",
        ),
        (
            ["--data.dataset", f"{HERE}.Points", "--data.dataset.num", "0"],
            "data.dataset: Points(num=0) is empty. Give one with samples.",
        ),
        (
            ["--data.dataset", f"{HERE}.Points", "--model.num_classes", "1"],
            "model.num_classes: 1, but DatasetDataModule has 2. Set it to 2.",
        ),
        (
            ["--data.train", f"{HERE}.Points", "--data.test", f"{HERE}.Pets"],
            "data.test: its class 0 is cat, but left in train. Number the classes alike.",
        ),
        ([], "data.dataset: missing. Give the path of a Dataset's class, or train."),
        (
            ["--data.dataset", "torchvision.datasets.FashionMNIST", "--data.dataset.root", "nope"],
            "data.dataset: Dataset not found. You can use download=True to download it",
        ),
    ],
)
def test_bad_input(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*MODEL, *QUIET, "--runs_dir", str(tmp_path), "--data", "DatasetDataModule", *args]
    fails(train_command, given, message, capsys)
    assert not [*tmp_path.glob("*/*/*")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_evaluated_on_another_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*MODEL, *QUIET, *POINTS, "--runs_dir", str(tmp_path), "--trainer.max_epochs", "1"]
    assert train_command(args) == 0
    assert (
        "warning: model.num_classes: 3, but DatasetDataModule has 2. "
        "Set it to 2: predict and export name each class "
        "(of a detector, one is the background).\n"
    ) in capsys.readouterr().err
    (run,) = tmp_path.glob("*/*")
    assert evaluate_command([str(run)]) == 0
    assert "when the model was trained" not in capsys.readouterr().err
    assert evaluate_command([str(run), "--", "--data.dataset.num", "50"]) == 0
    assert (
        "warning: data.dataset: Points(num=50) has 50 samples, and had 60 when the model was "
        "trained: other samples are in its parts.\n"
    ) in capsys.readouterr().err
    args = [str(run), "--format", "torch"]
    fails(export_command, args, "RUN: has names of 2 classes, and the model 3.", capsys)


def write_mnist(folder: Path, num: int) -> None:
    """Write files as those of MNIST: images of a class are as bright as its number."""
    folder.mkdir(parents=True)
    labels = bytes(place % 10 for place in range(num))
    images = b"".join(bytes([25 * label]) * 784 for label in labels)
    for name in ("train", "t10k"):
        file = folder / f"{name}-images-idx3-ubyte"
        file.write_bytes(struct.pack(">4i", 2051, num, 28, 28) + images)
        file = folder / f"{name}-labels-idx1-ubyte"
        file.write_bytes(struct.pack(">2i", 2049, num) + labels)


FASHION = """
train: {class_path: torchvision.datasets.FashionMNIST, init_args: {root: ROOT, transform: FLAT}}
test:
  class_path: torchvision.datasets.FashionMNIST
  init_args: {root: ROOT, train: false, transform: FLAT}
weighted_sampling: true
batch_size: 8
"""
FLAT = (
    "{class_path: torchvision.transforms.v2.Compose, init_args: {transforms: ["
    "torchvision.transforms.v2.ToImage, {class_path: torchvision.transforms.v2.ToDtype, "
    "init_args: {dtype: torch.float32, scale: true}}, "
    "{class_path: torch.nn.Flatten, init_args: {start_dim: 0}}]}}"
)


@pytest.mark.slow
def test_torchvision_by_its_path(tmp_path: Path) -> None:
    write_mnist(tmp_path / "FashionMNIST" / "raw", 40)
    settings = FASHION.replace("ROOT", str(tmp_path)).replace("FLAT", FLAT)
    config = tmp_path / "fashion.yaml"
    nested = settings.strip().replace("\n", "\n    ")
    config.write_text(f"data:\n  class_path: DatasetDataModule\n  init_args:\n    {nested}\n")
    model = ["--model", "tests.lightkeel.tiny.TinyModel", "--model.num_features", "784"]
    args = [*model, "--model.num_classes", "10", "--config", str(config), *QUIET]
    runs = tmp_path / "runs"
    assert train_command([*args, "--runs_dir", str(runs), "--trainer.max_epochs", "1"]) == 0
    (run,) = runs.glob("*/*")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == 5  # 36 samples in batches of 8
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["class_names"][:2] == ["T-shirt/top", "Trouser"]
    assert evaluate_command([str(run)]) == 0
    found = json.loads((run / "evaluation" / "best" / "test" / "metrics.json").read_text())
    assert found["test/loss"] == pytest.approx(metrics["test/loss"], abs=1e-6)
    assert train_command(["--config", str(run / "config.yaml"), "--runs_dir", str(runs)]) == 0
    again = next(path for path in runs.glob("*/*") if path != run)
    assert same(run, again)


PAGE = (ROOT / "docs/your_data.md").read_text()


def test_readme_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and the command under this heading, on images made here."""
    section = PAGE.split("## Your own dataset\n")[1].split("\n##")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15
    (command,) = re.findall(r"    python -m src.train ((?:.*\\\n)*.*)\n", section)
    (tmp_path / "my_data.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(20):
        image = Image.new("RGB", (50, 40), (number, number, number))
        image.save(tmp_path / f"photos/{('cat', 'dog')[number % 2]}_{number}.png")
    assert train_command([*shlex.split(command.replace("\\\n", "")), *QUIET]) == 0
    (metrics,) = tmp_path.glob("runs/*/*/metrics.json")
    assert json.loads(metrics.read_text())["test/loss"] > 0


class Small(LightningModule):
    """Told nothing of the shape of its inputs: (B, 1, 4, 4) -> (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.net(x)
        return scores

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    test_step = training_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def squares() -> TensorDataset:
    return TensorDataset(torch.rand(20, 1, 4, 4), torch.arange(20) % 2)


@pytest.mark.slow
def test_export_takes_samples_and_predict_says_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--model", f"{HERE}.Small", "--data", "DatasetDataModule", *QUIET]
    args += ["--data.train", f"{HERE}.squares", "--data.val_fraction", "null"]
    assert train_command([*args, "--runs_dir", str(tmp_path), "--trainer.max_epochs", "1"]) == 0
    (run,) = tmp_path.glob("*/*")
    assert export_command([str(run), "--format", "torch"]) == 0
    program: Any = torch.export.load(run / "exports" / "best.pt2").module()
    assert program(torch.rand(3, 1, 4, 4)).shape == (3, 2)
    (tmp_path / "rows.csv").write_text("1,2\n")
    what = "RUN: samples of DatasetDataModule are made by its Dataset, not of files. Use"
    capsys.readouterr()
    fails(predict_command, [str(run), str(tmp_path / "rows.csv")], f"{what}…", capsys)
    fails(evaluate_command, [str(run)], "trainer: `test_dataloader` must be implemented…", capsys)


DOCUMENTED = "".join(
    re.findall(
        r"^## (?:Dataset|DataLoader)\n(.*?)(?=^## |\Z)",
        (ROOT / "docs/data.md").read_text(),
        re.M | re.S,
    )
).replace("\\\n", "")
COMMANDS = re.findall(r"^    python -m src.train (.*)", DOCUMENTED, re.M)


def test_commands_are_documented() -> None:
    assert len(COMMANDS) == 9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", COMMANDS)
def test_documented(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in re.findall(r"```\w+\n# (\w+\.\w+)\n(.*?)```", DOCUMENTED, re.S):
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("my_examples", None)
    budget = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "1"]
    assert train_command([*shlex.split(command), *QUIET, *budget]) == 0
    assert len([*tmp_path.glob("runs/*/*/metrics.json")]) == 1


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    args = [*MODEL, *QUIET, *POINTS, "--trainer.max_epochs", "2", "--data.num_workers", "1"]
    one, two = alone_and_together(args, tmp_path, TWO, ranks=2)
    assert_close(one, two, ["val/loss", "test/loss"])


@pytest.mark.slow
def test_killed_runs_end_as_whole_ones(tmp_path: Path) -> None:
    data = [*POINTS, "--data.num_workers", "2", "--data.persistent_workers", "true"]
    often = ["--callbacks.checkpoint.every_n_steps", "2", "--trainer.max_epochs", "3"]
    survives_kills(2, tmp_path, *MODEL, *QUIET, *data, *often)
