"""Checkpoints and configs made to do damage: refused in three lines, without doing any."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from lightkeel.runs import safe_yaml
from src import evaluate, export, predict, train
from tests.lightkeel.commands import fails
from tests.lightkeel.conftest import TINY

OTHER = "  Use another checkpoint of the run."


class MakesFolder:
    """Makes a pickle that makes a folder when it is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def unfinished(tmp_path: Path, tiny_run: Path) -> Path:
    """A run that could go on: that of the session, set to one more epoch."""
    run = tmp_path / "runs/tiny/run"
    shutil.copytree(tiny_run, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["max_epochs"] = 3
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def contents(folder: Path) -> dict[Path, bytes]:
    """Read all files, but for those that TensorBoard begins before a checkpoint is restored."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files if "tfevents" not in path.name}


def refuses(
    run: Path, content: bytes | bytearray, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check that whoever opens it refuses a checkpoint, and changes nothing."""
    last = run / "checkpoints/last.ckpt"
    for name in ("best.ckpt", "last.ckpt"):
        (run / "checkpoints" / name).write_bytes(content)
    before = contents(run.parents[1])
    message = message.format(path=last)
    fails(evaluate.main, [str(last)], message, capsys)
    fails(predict.main, [str(last), str(run / "metrics.csv")], message, capsys)
    fails(export.main, [str(last), "--format", "torch"], message, capsys)
    fails(train.main, ["--resume", str(last), "--runs_dir", str(run.parents[1])], message, capsys)
    assert contents(run.parents[1]) == before


def saved(checkpoint: object, folder: Path) -> bytes:
    torch.save(checkpoint, folder / "made.ckpt")
    content = (folder / "made.ckpt").read_bytes()
    (folder / "made.ckpt").unlink()
    return content


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["pickle", "archive", "within"])
def test_pickles_run_nothing(
    form: str, unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    payload = MakesFolder(tmp_path / "made by the payload")
    if form == "pickle":
        content = pickle.dumps({"state_dict": payload})
    elif form == "archive":
        content = saved(payload, tmp_path)
    else:  # a checkpoint but for one callback's state
        whole = torch.load(unfinished / "checkpoints/last.ckpt", weights_only=True)
        whole["callbacks"]["Checkpoint"] = payload
        content = saved(whole, tmp_path)
    refuses(unfinished, content, "RUN {path}: holds objects…", capsys)
    assert not payload.folder.exists()
    pickle.loads(pickle.dumps(payload))
    assert payload.folder.exists()  # it would have worked


def test_flipped_bit(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = unfinished / "checkpoints/last.ckpt"
    weights = torch.load(path, weights_only=True)["state_dict"]["network.0.weight"]
    content = bytearray(path.read_bytes())
    content[content.index(weights.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)
    refuses(unfinished, content, "RUN {path}: is damaged (bad checksum of …", capsys)


def test_compressed_checkpoint(
    unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thousandth of its size: 10 MB of a file could become 10 GB of memory."""
    weights = {"state_dict": {"network.0.weight": torch.zeros(1_000_000)}}
    (tmp_path / "plain").write_bytes(saved(weights, tmp_path))
    with (
        zipfile.ZipFile(tmp_path / "plain") as plain,
        zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    content = (tmp_path / "packed").read_bytes()
    assert len(content) < 10_000
    reason = "compressed, and may unpack to any size"
    refuses(unfinished, content, f"RUN {{path}}: is damaged ({reason}).\n{OTHER}", capsys)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("state_dict", None, "RUN {path}: is no checkpoint of a LightningModule: no `state_dict`."),
        ("state_dict", {"network.0.weight": 3}, "RUN {path}: is a checkpoint of another model…"),
    ],
)
def test_contents_that_are_refused(
    part: str,
    value: object,
    message: str,
    unfinished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = torch.load(unfinished / "checkpoints/last.ckpt", weights_only=True)
    refuses(unfinished, saved({**whole, part: value}, tmp_path), message, capsys)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (
            "loops",
            {},
            "--resume {run}: last.ckpt does not tell how far the run has come. "
            "Resume from a checkpoint that this project wrote in training.",
        ),
        (
            "optimizer_states",
            [{"state": {}, "param_groups": 3}],
            "--resume: the checkpoint holds what cannot be restored (TypeError: …",
        ),
        pytest.param(
            "lr_schedulers",
            None,
            "--resume: the checkpoint holds what cannot be restored (TypeError: …",
            marks=pytest.mark.slow,
        ),
        (
            "callbacks",
            {"Nonfinite": 3, "Checkpoint": 3},
            "--resume: the checkpoint holds what cannot be restored (…",
        ),
    ],
)
def test_progress_that_cannot_be_restored(
    part: str,
    value: object,
    message: str,
    unfinished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = unfinished / "checkpoints/last.ckpt"
    whole = torch.load(path, weights_only=True)
    if part == "callbacks":
        value = dict.fromkeys(whole["callbacks"], 3)
    content = saved({**whole, part: value}, tmp_path)
    path.write_bytes(content)
    args = ["--resume", str(unfinished), "--runs_dir", str(tmp_path / "runs")]
    fails(train.main, args, message.format(run=unfinished), capsys)
    assert path.read_bytes() == content
    assert (unfinished / "metrics.json").exists()


def test_pipes_are_not_waited_for(
    tmp_path: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    fails(train.main, ["--config", str(pipe)], f"--config {pipe}: no such config.…", capsys)
    config = ["--config", str(tiny_run / "config.yaml")]
    fails(evaluate.main, [str(pipe), *config], f"RUN {pipe}: no such file or folder.…", capsys)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("model: " + "[" * 5000, ": it is nested too deeply"),
        ("run_name: 2026-02-30", ": day is out of range for month"),
        ("run_name: !!int x", ": invalid literal for int() with base 10: 'x'"),
        ("run_name: !!timestamp x", ": 'NoneType' object has no attribute 'groupdict'"),
        ("run_name: !!bool x", ": 'x'"),
        ("run_name: \0", ""),
        ("a: *b", ", line 1: found undefined alias 'b'"),
    ],
)
def test_configs(
    content: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    message = f"--config {path}: is no valid YAML{reason}."
    fails(train.main, ["--config", str(path)], message, capsys)


@pytest.mark.parametrize("content", ["model: &a [*a]", "model: &a {b: {c: *a}}"])
def test_aliases_without_an_end(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    message = f"--config {path}: cannot be read (an alias stands for what it is in)."
    fails(train.main, ["--config", str(path)], message, capsys)


def test_aliases_in_reason_are_allowed() -> None:
    assert safe_yaml.load("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


TWICE = "cannot be read (line 1: `{}` is given twice, first in line 1)."


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("{a: 1, b: 2, a: 1}", "a"),
        ("{a: {b: 1, c: 2}, a.b: 2}", "a.b"),
        ("{a: [{b: 1}, {b: 1, b: 2}]}", "a[1].b"),
        ("{a: &x {b: 1, b: 2}, c: *x}", "a.b"),
    ],
)
def test_keys_that_are_given_twice(
    content: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a config, in a file that an option names, and in an option's value."""
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    fails(train.main, ["--config", str(path)], f"--config {path}: {TWICE.format(key)}", capsys)
    fails(train.main, [*TINY, "--model", str(path)], f"model: {TWICE.format(key)}", capsys)
    option = ["--model.optimizer", content]
    fails(train.main, [*TINY, *option], f"model.optimizer: {TWICE.format(key)}", capsys)


def test_keys_that_are_given_once() -> None:
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}\nz: [*x, *x]\nx.c: 4"
    base = {"a": 1, "b": 2}
    assert safe_yaml.load(text) == {"x": base, "y": {"a": 3, "b": 2}, "z": [base] * 2, "x.c": 4}


@pytest.mark.parametrize("place", ["config", "text", "file", "value", "callback"])
def test_yaml_runs_nothing(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a config, in a text in it, in a file that an option names, and as an option's value."""
    folder = tmp_path / "made by the payload"
    content = f"!!python/object/apply:os.mkdir ['{folder}']"
    path = tmp_path / "part.yaml"
    path.write_text(f"init_args: {content}")
    if place == "text":
        path.write_text(yaml.safe_dump({"model": {"init_args": {"optimizer": content}}}))
    args = {
        "config": ["--config", str(path)],
        "text": ["--config", str(path)],
        "file": ["--model", str(path)],
        "value": ["--model.optimizer", content],
        "callback": ["--callbacks", str(path)],
    }[place]
    message = {
        "config": f"--config {path}: ",
        "text": "model.optimizer: ",
        "file": "model: ",
        "value": "model.optimizer: ",
        "callback": "callbacks: ",
    }[place]
    args += ["--runs_dir", str(tmp_path / "runs")]
    fails(train.main, [*TINY, *args], f"{message}…", capsys)
    assert not folder.exists()
    assert not (tmp_path / "runs").exists()


def test_texts_that_are_no_yaml_are_texts(tmp_path: Path) -> None:
    args = [*TINY, "--runs_dir", str(tmp_path), "--trainer.max_steps", "1"]
    assert train.main([*args, "--run_name", "a: b: *c"]) == 0
    assert (tmp_path / "tiny/a: b: *c/config.yaml").exists()
