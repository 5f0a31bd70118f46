"""A checkpoint is whole or absent, and one that is damaged is passed over."""

import errno
import json
import os
import re
import resource
import shutil
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightkeel.runs.checkpoints import (
    WholeCheckpointIO,
    check_when_loaded,
    load_checkpoint,
    match_classes,
)
from lightkeel.runs.find import damage
from src.evaluate import main as evaluate
from src.train import main as train
from tests.lightkeel.commands import TRAIN, fails, finish, forked, same
from tests.lightkeel.conftest import TINY
from tests.lightkeel.fitting import Line, fit, noisy_line
from tests.lightkeel.soak import differences, flat
from tests.lightkeel.tiny import TinyData

LONGER = ["--model.lr_scheduler.total_steps", "12", "--trainer.max_epochs"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two runs that are done, of two epochs and of four."""
    folder = tmp_path_factory.mktemp("trained")
    for epochs in ("2", "4"):
        args = [*LONGER, epochs, "--runs_dir", str(folder), "--run_name", epochs]
        assert train([*TINY, *args]) == 0
    return folder / "tiny"


@pytest.fixture
def interrupted(trained: Path, tmp_path: Path) -> Path:
    """A run of two epochs that was to have four, as if it had been killed."""
    folder = shutil.copytree(trained / "2", tmp_path / "tiny" / "parts")
    (folder / "metrics.json").unlink()
    return folder


def flip(path: Path, place: int | None = None, bit: int = 2) -> None:
    """Change a bit at a place, or in the midst of the largest tensor."""
    if place is None:
        with zipfile.ZipFile(path) as file:
            largest = max(file.infolist(), key=lambda part: part.file_size)
            place = path.read_bytes().index(file.read(largest)) + largest.file_size // 2
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"weight": torch.ones(3)}, path)
    before = path.read_bytes()
    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match=r"last\.ckpt cannot be written \(No space left on device\)"):
        WholeCheckpointIO().save_checkpoint({"weight": torch.zeros(3)}, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_written_to_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)

        def record(*args: Any, call: Any = call, name: str = name) -> None:
            calls.append(name)
            call(*args)

        monkeypatch.setattr(os, name, record)
    WholeCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder's list of names


@pytest.mark.slow
def test_full_disk_stops_the_run(interrupted: Path) -> None:
    checkpoints = {path: path.read_bytes() for path in (interrupted / "checkpoints").iterdir()}
    limit = min(map(len, checkpoints.values())) - 1  # bytes a file
    process = forked(*TRAIN, "--resume", str(interrupted), "--trainer.max_epochs", "4")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    said = finish(process, 2)
    path = interrupted / "checkpoints"
    assert re.fullmatch(
        rf"error: callbacks\.checkpoint: {path}/\w+\.ckpt cannot be written \(File too large\)\. "
        rf"The checkpoints there are as they were\.\n"
        rf"  Make room, then go on with --resume {interrupted}\n",
        said,
    ), said
    assert {path: path.read_bytes() for path in path.iterdir()} == checkpoints
    assert train(["--resume", str(interrupted), "--trainer.max_epochs", "4"]) == 0


def test_a_flipped_bit_is_found_unless_it_means_nothing(tiny_run: Path, tmp_path: Path) -> None:
    path, original = tmp_path / "copy.ckpt", tiny_run / "checkpoints" / "last.ckpt"
    expected = dict(flat(torch.load(original, weights_only=True)))
    num_found = 0
    for place in range(7, original.stat().st_size, 97):
        shutil.copy(original, path)
        flip(path, place)
        num_found += is_refused(path, expected)
    assert num_found > 100
    shutil.copy(original, path)
    assert damage(path) is None
    flip(path)
    assert str(damage(path)).startswith("bad checksum of ")


@pytest.mark.parametrize("bit", [2, 4])
def test_a_flipped_bit_in_the_list_of_parts(bit: int, tmp_path: Path) -> None:
    """No checksum is over those bytes: of two parts of one name, and of one that is a folder."""
    path = tmp_path / "a.ckpt"
    weights = {f"weight{number}": torch.full((9,), float(number)) for number in range(6)}
    torch.save({"state_dict": weights}, path)
    whole, expected = path.read_bytes(), dict(flat({"state_dict": weights}))
    with zipfile.ZipFile(path) as file:
        begin = file.start_dir
    num_found = 0
    for place in range(begin, len(whole)):
        path.write_bytes(whole)
        flip(path, place, bit)
        num_found += is_refused(path, expected)
    assert num_found > 100


def is_refused(path: Path, expected: dict[str, Any]) -> bool:
    """Tell whether a damaged checkpoint is refused in words; else it holds what was written."""
    try:
        found = load_checkpoint(path)
    except ValueError as error:
        return str(error).startswith(f"RUN {path}: ")
    assert differences(expected, dict(flat(found))) == []
    return False


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
def test_damaged_checkpoint_is_passed_over(
    trained: Path, interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    last = interrupted / "checkpoints" / "last.ckpt"
    if how == "flipped":
        flip(last)
    else:
        os.truncate(last, 5000 if how == "cut" else 0)
    capsys.readouterr()
    go_on = ["--resume", "auto", "--trainer.max_epochs", "4", "--runs_dir", str(tmp_path)]
    assert train([*TINY, *go_on]) == 0
    told = capsys.readouterr().err
    assert re.fullmatch(rf"warning: {last} is damaged \(.+\)\. Resuming from best\.ckpt\.\n", told)
    assert same(interrupted, trained / "4")


def test_nothing_whole_is_left(interrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        os.truncate(interrupted / "checkpoints" / name, 100)
    message = f"--resume {interrupted}: no checkpoint is whole (…"
    fails(train, ["--resume", str(interrupted)], message, capsys)
    best = interrupted / "checkpoints" / "best.ckpt"
    fails(evaluate, [str(interrupted)], f"RUN {best}: is cut short or no checkpoint (…", capsys)


def test_damaged_weights_are_not_evaluated(
    interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = interrupted / "checkpoints" / "best.ckpt"
    flip(best)
    fails(evaluate, [str(interrupted)], f"RUN {best}: is damaged (…", capsys)


def test_what_keeps_a_resumed_run_from_being_exact_is_said(
    interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--resume", str(interrupted), "--trainer.max_epochs", "4"]
    capsys.readouterr()
    assert train([*args, "--data.batch_size", "48", "--data.num_workers", "1"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "warning: data.batch_size: 48, before 32. The run ends otherwise than it would."
    ]


def test_run_killed_in_its_test_is_finished(trained: Path, interrupted: Path) -> None:
    """Nothing is left to train, but metrics.json is missing."""
    before = (interrupted / "metrics.csv").read_text()
    rows = before.splitlines()[:-1]  # without that of the test
    (interrupted / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert train(["--resume", str(interrupted)]) == 0
    measured = ("samples_per_s", "train_seconds", "memory_mib")
    found, expected = (
        {
            k: v
            for k, v in json.loads((run / "metrics.json").read_text()).items()
            if k not in measured
        }
        for run in (interrupted, trained / "2")
    )
    assert found == expected
    assert len((interrupted / "metrics.csv").read_text().splitlines()) == len(before.splitlines())


def test_tensorboard_shows_one_curve(trained: Path, interrupted: Path) -> None:
    """What was logged after the checkpoint that a run goes on from is not shown twice."""

    def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(run)).Reload()
        measured = ("samples_per_s", "memory_mib")
        return {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
            if tag not in measured
        }

    last = interrupted / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    assert train(["--resume", str(interrupted), "--trainer.max_epochs", "3"]) == 0
    last.write_bytes(before)  # as if killed before the next
    (interrupted / "metrics.json").unlink()
    assert train(["--resume", str(last), "--trainer.max_epochs", "4"]) == 0
    assert curves(interrupted) == curves(trained / "4")
    rows = [(p / "metrics.csv").read_text().count("\n") for p in (interrupted, trained / "4")]
    assert rows[0] == rows[1]


class Partial(LightningModule):
    """Has two layers, one of which it does not ask of a checkpoint."""

    def __init__(self, strict: bool) -> None:
        super().__init__()
        self.strict_loading = strict
        self.layers = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.LazyLinear(1, bias=False)])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint["state_dict"]
        if "old" in weights:
            weights["layers.0.weight"] = weights.pop("old")


@pytest.mark.parametrize(
    ("weights", "strict", "found"),
    [
        ({"layers.0.weight": (1, 1), "layers.1.weight": (1, 7)}, True, None),  # any size
        ({"old": (1, 1), "layers.1.weight": (1, 7)}, True, None),
        ({"layers.0.weight": (1, 1)}, False, None),
        ({"layers.0.weight": (1, 1), "extra": (2,)}, False, None),
        (
            {"layers.0.weight": (1, 1)},
            True,
            "`layers.1.weight` is missing there and of any size here",
        ),
        ({"layers.0.weight": (1, 2)}, False, "`layers.0.weight` is (1, 2) there and (1, 1) here"),
    ],
)
def test_what_a_model_asks_of_a_checkpoint(
    weights: dict[str, tuple[int, ...]], strict: bool, found: str | None
) -> None:
    model = Partial(strict)
    check_when_loaded(Path("a.ckpt"), model)
    checkpoint = {"state_dict": {name: torch.zeros(shape) for name, shape in weights.items()}}
    if found is None:
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"], strict=strict)
    else:
        with pytest.raises(ValueError, match="another model") as caught:
            model.on_load_checkpoint(checkpoint)
        assert found in str(caught.value)


@pytest.mark.parametrize("names", [["b", "a"], ["a"]])
def test_data_that_keeps_to_its_own_numbers(names: list[str]) -> None:
    """Of others' datamodules, which can be told no numbers, other than those of training."""

    class Data:
        class_names = names

    same: dict[str, Any] = {"class_names": list(names)}
    match_classes(Path("x.ckpt"), same, Data())
    match_classes(Path("x.ckpt"), {}, Data())
    message = f"^data: Data numbers its classes {', '.join(names)}, but the model was trained with"
    with pytest.raises(ValueError, match=message):
        match_classes(Path("x.ckpt"), {"class_names": ["a", "b"]}, Data())


class NamedWhenSetUp(TinyData):
    """As somebody's own data that finds its classes in ``setup``."""

    class_names: list[str] | None = None

    def __init__(self, names: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = names

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.class_names = self.names


@pytest.mark.slow
def test_names_that_are_known_late(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", f"{__name__}.{NamedWhenSetUp.__name__}", "--data.names", "[a,b,c]"]
    assert train([*TINY, *data, "--runs_dir", str(tmp_path), "--run_name", "run"]) == 0
    run = tmp_path / "tiny/run"
    assert evaluate([str(run)]) == 0
    (run / "metrics.json").unlink()
    other = ["--data.names", "[b,a,c]"]
    message = (
        "data: NamedWhenSetUp numbers its classes b, a, c, but the model was trained with a, b, c"
    )
    for main, args in [
        (evaluate, [str(run)]),
        (train, ["--resume", str(run), "--runs_dir", str(tmp_path)]),
    ]:
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            main([*args, *other])
        assert f"error: {message}.\n" in capsys.readouterr().err
    assert not (run / "metrics.json").exists()


class Stamp(NamedTuple):
    first: int
    second: int


class Keeps(Callback):
    """A person's callback with a state of its own."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.state}


NUMPY = {
    "best": np.float64(0.5),
    np.int64(3): [np.int32(7), (np.bool_(True), np.str_("a"))],
    "curve": np.arange(3.0),
}


def test_values_of_numpy_are_written_as_plain_ones(tmp_path: Path) -> None:
    made = fit(tmp_path, Line(2), noisy_line(4, batch_size=2), Keeps(NUMPY), limit_train_batches=0)
    made.strategy.checkpoint_io = WholeCheckpointIO()
    made.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    kept = checkpoint["callbacks"]["Keeps"]["kept"]
    assert torch.equal(kept.pop("curve"), torch.arange(3.0, dtype=torch.float64))
    assert kept == {"best": 0.5, 3: [7, (True, "a")]}
    assert [type(key) for key in kept] == [str, int]
    assert type(kept["best"]) is float
    assert checkpoint["state_dict"].keys() == made.lightning_module.state_dict().keys()


@pytest.mark.parametrize(
    ("state", "key", "kind"),
    [
        ({"a": [1, Path("b")]}, "kept.a.1", "PosixPath"),
        (nn.Linear(1, 1), "kept", "Linear"),
        ({"words": np.array(["a"])}, "kept.words", "ndarray"),
        ({"pair": Stamp(1, 2)}, "kept.pair", "Stamp"),
    ],
)
def test_what_could_not_be_read_back_is_refused_by_its_key(
    tmp_path: Path, state: Any, key: str, kind: str
) -> None:
    made = fit(tmp_path, Line(2), noisy_line(4, batch_size=2), Keeps(state), limit_train_batches=0)
    made.strategy.checkpoint_io = WholeCheckpointIO()
    message = f"`callbacks.Keeps.{key}` of the checkpoint is a {kind}, which could not be read back"
    with pytest.raises(ValueError, match=re.escape(message)):
        made.save_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()
