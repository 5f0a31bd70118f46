"""The list of runs: what it says of made-up runs, of real ones and of damaged ones."""

import errno
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from lightkeel.errors.bad_input import InputError
from lightkeel.project import Project
from lightkeel.runs import find, lock, output, status
from lightkeel.runs.files import write_json
from src import PROJECT
from src.evaluate import main as evaluate
from src.runs import main
from src.train import main as train
from tests.lightkeel.commands import TRAIN, fails, finish, start, stop_in_step
from tests.lightkeel.conftest import TINY
from tests.lightkeel.tiny import TinyModel

RUNS = ["-m", "src.runs"]


def make(
    folder: Path,
    minute: int = 0,
    *,
    metrics: dict[str, float] | None = None,
    said: dict[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> Path:
    """Write a run begun at a minute, with options of its model; done unless ``said`` otherwise."""
    began = f"2026-01-02T03:{minute:02}:00.000+00:00"
    content = {
        "state": "done",
        "started": began,
        "session_started": began,
        "ended": began,
        "seconds": 62.5,
        "error": None,
        **(said or {}),
    }
    config = {
        "seed_everything": seed,
        "model": {"class_path": "models.MLP", "init_args": {"optimizer": options}},
        "runs_dir": str(folder.parent),
        "run_name": folder.name,
    }
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if content["state"] == "done":
        (folder / "metrics.json").write_text(json.dumps(metrics or {}))
    return folder


def listed(folder: Path, capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    """Read what the command writes as JSON."""
    capsys.readouterr()
    assert main([str(folder), "--json", *args]) == 0

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(capsys.readouterr().out, parse_constant=refuse)


def names(folder: Path, capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    found = listed(folder, capsys, *args)["runs"]
    return [run["run"].removeprefix("mlp/") for run in found]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Three seeds of one setting, another setting, and one run that failed."""
    for seed, acc in enumerate([0.7, 0.8, 0.9]):
        metrics = {"test/acc": acc, "test/loss": 1234.5 + seed, "train/loss_step": 3.0}
        make(tmp_path / f"mlp/seed{seed}", seed, seed=seed, lr=0.1, metrics=metrics)
    make(tmp_path / "mlp/other", 5, lr=0.5, metrics={"test/acc": 0.95, "test/loss": float("nan")})
    error = "model: the loss of step 3 is nan"
    said = {"state": "failed", "error": error, "seconds": 3725}
    make(tmp_path / "mlp/bad", 9, lr=2.0, said=said)
    return tmp_path


TABLE = """\
run         state    test/acc   test/loss   differs in                                  duration
────────────────────────────────────────────────────────────────────────────────────────────────
mlp/bad     failed                          model.optimizer.lr=2.0, seed_everything=0    1:02:05
mlp/other   done         0.95         nan   model.optimizer.lr=0.5, seed_everything=0    0:01:02
mlp/seed2   done          0.9        1236   model.optimizer.lr=0.1, seed_everything=2    0:01:02
mlp/seed1   done          0.8        1236   model.optimizer.lr=0.1, seed_everything=1    0:01:02
mlp/seed0   done          0.7        1234   model.optimizer.lr=0.1, seed_everything=0    0:01:02
mlp/bad: model: the loss of step 3 is nan

Mean ± standard deviation over seeds (number of runs)
experiment        test/acc      test/loss   differs in
──────────────────────────────────────────────────────────────────
mlp          0.8 ± 0.1 (3)   1236 ± 1 (3)   model.optimizer.lr=0.1
"""


def test_tables(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(made)]) == 0
    assert capsys.readouterr().out == TABLE


def test_json(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(made, capsys)
    assert [run["run"] for run in found["runs"]] == [
        f"mlp/{name}" for name in ("bad", "other", "seed2", "seed1", "seed0")
    ]
    assert found["runs"][0] == {
        "run": "mlp/bad",
        "state": "failed",
        "error": "model: the loss of step 3 is nan",
        "duration_s": 3725,
        "folder": str(made / "mlp/bad"),
        "metrics": {},
        "config": {"model.optimizer.lr": 2.0, "seed_everything": 0},
    }
    assert found["runs"][1]["metrics"] == {"test/acc": 0.95, "test/loss": None}
    (group,) = found["groups"]
    assert group["experiment"] == "mlp"
    assert group["config"] == {"model.optimizer.lr": 0.1}
    assert group["runs"] == ["mlp/seed0", "mlp/seed1", "mlp/seed2"]
    assert group["metrics"]["test/acc"] == {
        "mean": pytest.approx(0.8),
        "sd": pytest.approx(0.1),
        "n": 3,
    }


@pytest.mark.parametrize(
    ("given", "order"),
    [
        (["test/acc"], "seed0 seed1 seed2 other bad"),
        (["-test/acc"], "other seed2 seed1 seed0 bad"),
        (["--sort=-test/acc"], "other seed2 seed1 seed0 bad"),
        (["-test/loss"], "seed2 seed1 seed0 bad other"),  # NaN is last too
        (["duration"], "other seed2 seed1 seed0 bad"),
        (["-duration"], "bad other seed2 seed1 seed0"),
        (["test/loss"], "seed0 seed1 seed2 bad other"),
        (["state"], "other seed2 seed1 seed0 bad"),
        (["run"], "bad other seed0 seed1 seed2"),
        (["-model.optimizer.lr"], "bad other seed2 seed1 seed0"),
        (["seed_everything"], "bad other seed0 seed1 seed2"),
    ],
)
def test_sort(given: list[str], order: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option = given if given[0].startswith("--") else ["--sort", *given]
    assert names(made, capsys, *option) == order.split()


def test_bad_input(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "--sort test/ac: no such column. Did you mean `test/acc`?"
    fails(main, [str(made), "--sort", "test/ac"], text, capsys)
    fails(
        main, [str(made), "--sort", "-xyz"], "--sort -xyz: no such column. Available: dur…", capsys
    )
    gone, empty = made / "gone", made / "mlp/empty"
    empty.mkdir()
    fails(main, [str(gone)], f"DIR {gone}: no such folder. Train first, or name…", capsys)
    fails(main, [str(empty)], f"DIR {empty}: holds no run. Train first, or name…", capsys)
    fails(main, [str(made), "--js"], "--js: python -m…", capsys)


def test_what_dir_may_be(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(made / "cnn/a", 20)
    assert len(names(made, capsys)) == 6
    assert names(made / "cnn", capsys) == ["cnn/a"]
    found = listed(made / "mlp/seed1", capsys)
    assert [run["run"] for run in found["runs"]] == ["mlp/seed1"]
    assert found["runs"][0]["config"] == {}  # there is nothing that it could differ from
    monkeypatch.chdir(made / "mlp/seed1")
    assert names(Path(), capsys) == ["seed1"]
    monkeypatch.chdir(made)
    made.rename(made.with_name("runs"))
    monkeypatch.chdir(made.parent)
    assert main([]) == 0
    assert "cnn/a" in capsys.readouterr().out


def test_seeds_that_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each seed once, the newest run of it; only runs that are done."""
    for number, (seed, acc) in enumerate([(0, 0.1), (0, 0.4), (1, 0.6), (2, 0.9)]):
        said = {"state": "stopped"} if seed == 2 else None
        make(tmp_path / f"mlp/{number}", number, seed=seed, metrics={"acc": acc}, said=said)
    make(tmp_path / "mlp/4", 4, seed=0, lr=3)
    make(tmp_path / "mlp/5", 5, seed=0, lr=3)
    (group,) = listed(tmp_path, capsys)["groups"]
    assert group["runs"] == ["mlp/1", "mlp/2"]
    expected = {"mean": pytest.approx(0.5), "sd": pytest.approx(0.02**0.5), "n": 2}
    assert group["metrics"] == {"acc": expected}


def test_what_only_logs_makes_no_other_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds with another logger are one group; another option of the trainer is another."""
    shown: list[dict[str, Any]] = [
        {"trainer": {"logger": True, "max_epochs": 3}, "callbacks": {"progress": None}},
        {
            "trainer": {
                "logger": [{"class_path": "a.WandbLogger", "init_args": {"project": "p"}}],
                "default_root_dir": "/x",
                "enable_progress_bar": False,
                "max_epochs": 3,
            },
            "callbacks": {"progress": {"class_path": "b.Progress", "init_args": {"interval_s": 9}}},
        },
        {"trainer": {"logger": {"class_path": "a.CSVLogger"}, "max_epochs": 3}},
        {"trainer": {"logger": True, "max_epochs": 4}},
    ]
    for seed, parts in enumerate(shown):
        folder = make(tmp_path / f"mlp/{seed}", seed, seed=seed, metrics={"acc": seed / 4})
        config = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, **parts}))
    found = listed(tmp_path, capsys)
    (group,) = found["groups"]
    assert group["runs"] == ["mlp/0", "mlp/1", "mlp/2"]
    assert group["config"] == {"trainer.max_epochs": 3}
    assert found["runs"][2]["config"]["trainer.default_root_dir"] == "/x"  # it differs all the same


def test_classes_that_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What only one of two classes has says no more than the class; values of both do."""
    for name, model in [
        ("a", {"class_path": "x.CNN", "init_args": {"depth": 3, "act": "relu"}}),
        ("b", {"class_path": "y.CNN", "init_args": {"depth": 4, "act": "relu"}}),
        ("c", {"class_path": "y.Line", "init_args": {"bias": True}}),
    ]:
        make(tmp_path / "mlp" / name)
        (tmp_path / "mlp" / name / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    found = {run["run"]: run["config"] for run in listed(tmp_path, capsys)["runs"]}
    assert found == {
        "mlp/a": {"model": "CNN", "model.depth": 3},
        "mlp/b": {"model": "CNN", "model.depth": 4},
        "mlp/c": {"model": "Line"},
    }


NAMED = "cifar10_synthetic/2026-11-22_00-51-0"
BELOW = f"""
run                                     state   test/acc   val/acc   test/loss   val/loss   duration
────────────────────────────────────────────────────────────────────────────────────────────────────
{NAMED}4   done         0.4       0.3      0.3333        1.5    0:01:02
    model.optimizer.name=Adam
{NAMED}3   done         0.3       0.3      0.3333        1.5    0:01:02
    model.optimizer.name=AdamW
9 more metrics: in a wider terminal, through a pipe, or by --json
"""
ABOVE = f"""
run
  state   test/acc   val/acc   test/loss   val/loss   lr_group_0   duration
───────────────────────────────────────────────────────────────────────────
{NAMED}4
  done         0.4       0.3      0.3333        1.5       0.3333    0:01:02
    model.optimizer.name=Adam
{NAMED}3
  done         0.3       0.3      0.3333        1.5       0.3333    0:01:02
    model.optimizer.name=AdamW
8 more metrics: in a wider terminal, through a pipe, or by --json
"""
NARROW = f"""
run
  state   test/acc   duration
─────────────────────────────
{NAMED}4
  done         0.4    0:01:02
    model.optimizer.name=Adam
{NAMED}3
  done         0.3    0:01:02
    model.optimizer.name=AdamW
12 more metrics: in a wider terminal,
through a pipe, or by --json
"""


@pytest.mark.parametrize(("width", "table"), [(110, BELOW), (80, ABOVE), (38, NARROW)])
def test_fits(
    width: int,
    table: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No name and no number is broken or cut, and what there is no room for is counted."""
    metrics = {f"lr_group_{n}": 1 / 3 for n in range(9)} | {"val/loss": 1.5, "val/acc": 0.3}
    for seed, name in enumerate(["AdamW", "Adam"], 3):
        shown = {**metrics, "test/acc": seed / 10, "test/loss": 1 / 3}
        make(tmp_path / f"{NAMED}{seed}", seed, name=name, metrics=shown)
    monkeypatch.setattr(output, "PIPE_WIDTH", width)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == table.removeprefix("\n")


RESULTS = f"""
a
┌─────────┬────────────┬─────────┐
│ a long  │ 199 of 200 │ 1.9999, │
│ name    │            │ -3.4001 │
└─────────┴────────────┴─────────┘
run: {"x" * 60}
"""


def test_results_fit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are broken between each other alone, and paths not at all."""
    monkeypatch.setattr(output, "PIPE_WIDTH", 34)
    rows = [("a long name", "199 of 200", "1.9999, -3.4001")]
    output.print_table("a", rows, ("", "", ""), {"run": "x" * 60})
    assert capsys.readouterr().out == RESULTS.removeprefix("\n")


def test_nothing_is_cut_in_a_pipe(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {f"test/metric_{n:02}": 1 / 3 for n in range(30)}
    name = f"an_experiment_with_a_name/{'x' * 200}"
    make(made / name, metrics=metrics, lr=3)
    make(made / name[:-1], metrics=metrics, lr=[*range(100)])
    assert main([str(made)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(metric in lines[0] for metric in metrics)
    (line,) = (line for line in lines if f"{name[:-1]} " in line)
    assert line.count(" 0.3333 ") == 30
    assert f"model.optimizer.lr={[*range(100)]}" in line


ODD = {
    "directory": None,
    "empty": b"",
    "binary": bytes(range(256)) * 20,
    "cut": b'{"state": "done", "se',
    "list": b"[1, 2]",
    "deep": b"[" * 10_000,
    "number": b"1" * 5000,
    "texts": b'{"test/acc": "x", "b": [1], "c": NaN, "d": 1e999, "e": true, "f": {"g": 1}}',
    "control": b'{"test/\\u001b[31m\\ud800": 1, "[bold]x": 2}',
    "rows": b"step,test/acc,b\n1,0.5\n2,0.25,x,4,5\n\n,,\n3,0.12",
    "huge": b"test/acc,a\n" + b"1,2\n" * 20_000,
    "field": b"test/acc\n" + b"9" * 200_000 + b"\n",
    "yaml": b"a: &a [*a]\nb: !!python/object/apply:os.system [ls]",
    "laughs": b"a: &a {x: [l, l], y: 1}\nb: &b {<<: [*a, *a, *a, *a], z: *a}\n"
    + b"".join(
        b"%c: &%c {<<: [%b], x: [%b]}\n" % (n, n, b"*%c, " % (n - 1) * 9, b"*%c, " % (n - 1) * 9)
        for n in b"cdefghijkl"
    ),
    "values": b"a: [{2026-01-01: 3}]\nb: 0x" + b"f" * 9999 + b"\nc: !!set {x}\nd: !!binary aGk=",
    "keys": b"{1: 2, null: 3, 2026-01-01: 2026-01-01, seed_everything: .nan, a: [{1: 2, b: 3}]}",
}
FILES = ["status.json", "config.yaml", "metrics.json", "metrics.csv", "checkpoints"]


# Nested too deeply, which takes seconds to find, is among the configs of test_hostile.py too.
@pytest.mark.parametrize(
    "odd", [pytest.param(odd, marks=[pytest.mark.slow] * (odd == "deep")) for odd in ODD]
)
def test_damaged_runs_are_listed(
    odd: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [*FILES, "all"]:
        folder = make(tmp_path / f"mlp/odd {name}", metrics={"test/acc": 0.5})
        for file in FILES if name == "all" else [name]:
            path = folder / file
            path.unlink(missing_ok=True)
            content = ODD[odd]
            path.mkdir() if content is None else path.write_bytes(content)
    expected = sorted(f"odd {name}" for name in [*FILES, "all"])
    assert sorted(names(tmp_path, capsys)) == expected
    assert main([str(tmp_path), "--sort", "state"]) == 0
    printed = capsys.readouterr().out
    assert all(f"mlp/{name}" in printed for name in expected)
    assert "\x1b" not in printed
    printed.encode()  # no half of a surrogate pair


def test_pipes_are_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlp/a").mkdir(parents=True)
    for name in find.FILES:
        os.mkfifo(tmp_path / "mlp/a" / name)
    assert names(tmp_path, capsys) == ["a"]


def test_last_values_of_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row may be being written."""
    folder = make(tmp_path / "mlp/a", said={"state": "stopped"})
    rows = "step,lr,val/acc\n" + "1,0.5,\n2,,0.25\n" + "3,0.125,\n" * 600_000 + "4,0.0"
    (folder / "metrics.csv").write_text(rows)
    (run,) = listed(tmp_path, capsys)["runs"]
    assert run["metrics"] == {"lr": 0.125, "val/acc": 0.25}


def test_names_cannot_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "mlp/\x1b[31m[red]\udcff", said={"state": "failed", "error": "\x1b[2J[/x]"})
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "mlp/�[31m[red]�" in printed
    assert "�[2J[/x]" in printed
    assert "\x1b" not in printed


def test_older_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``status.json``, the newest by when their config was written."""
    for number, name in enumerate(["done", "stopped"]):
        folder = make(tmp_path / "mlp" / name)
        (folder / "status.json").unlink()
        os.utime(folder / "config.yaml", (number, number))
    (tmp_path / "mlp/stopped/metrics.json").unlink()
    found = [(run["run"], run["state"]) for run in listed(tmp_path, capsys)["runs"]]
    assert found == [("mlp/stopped", "stopped"), ("mlp/done", "done")]


def test_who_is_running(tmp_path: Path) -> None:
    """Who holds the lock; where there are no locks, it is believed."""
    status.begin(tmp_path)
    own = status.read(tmp_path)
    assert own is not None
    assert (own.state, own.ended) == ("running", None)
    assert status.look(tmp_path)[:2] == ("failed", "killed")
    held = lock.take(tmp_path)
    assert status.look(tmp_path)[:2] == ("running", None)
    lock.release(tmp_path, held)
    assert status.look(tmp_path)[:2] == ("failed", "killed")
    (tmp_path / "metrics.json").write_text("{}")  # and then the disk was full
    assert status.look(tmp_path)[:2] == ("done", None)


def test_running_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "is_held", lambda folder: None)
    status.begin(tmp_path)
    assert status.look(tmp_path)[:2] == ("running", None)


def test_only_a_run_that_has_begun_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*steps: Callable[[Path], None]) -> None:
        with status.recorded(tmp_path, lambda error: "of many\nlines"):
            for step in steps:
                step(tmp_path)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    status.begin(tmp_path)
    before = (tmp_path / status.NAME).read_bytes()
    with pytest.raises(RuntimeError):
        fail()  # before it was resumed
    assert (tmp_path / status.NAME).read_bytes() == before
    monkeypatch.setattr(status, "utc_now", lambda: "2100-01-01T00:00:00.000+00:00")
    with pytest.raises(RuntimeError):
        fail(status.begin)
    assert status.look(tmp_path)[:2] == ("failed", "of many")


def test_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with status.recorded(tmp_path, lambda error: None) as write_done:
        status.begin(tmp_path)
        before = (tmp_path / status.NAME).read_bytes()

        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        write_done()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_nothing_slow_is_imported(made: Path) -> None:
    code = (
        "import sys; from src.runs import main; main(); "
        "assert not {'torch', 'lightning', 'jsonargparse', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(made)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_how_commands_are_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the modules of a package that has such, else as this process was."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.py").touch()
    project = Project("mine", root=tmp_path)
    PROJECT.use()
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    monkeypatch.setattr(sys, "argv", ["my run.py"])
    assert project.command("train") == "python -m mine.train"
    assert project.command("runs") == "python 'my run.py'"


def test_python_as_a_shell_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no environment is entered, `python` is another or none."""
    for name in ("other", ".venv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "python").touch(0o777)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/python"))
    for path, folder, expected in [
        (".venv", "other", "python"),
        ("other", "other", str(tmp_path / ".venv/python")),
        ("other", ".", ".venv/python"),
        ("none", ".", ".venv/python"),
    ]:
        monkeypatch.setenv("PATH", str(tmp_path / path))
        monkeypatch.chdir(tmp_path / folder)
        assert PROJECT.command("train") == f"{expected} -m src.train"


def test_closed_pipe(made: Path) -> None:
    process = start(*RUNS, str(made))
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


def test_closed_output(made: Path) -> None:
    command = [sys.executable, *RUNS, str(made)]
    redirected = ["bash", "-c", '"$@" >&-', "bash", *command]
    done = subprocess.run(redirected, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: standard output is closed.\n")


def test_plain_terminal(made: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, *RUNS, str(made)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0.8 ? 0.1 (3)" in done.stdout


def test_done(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = json.loads((tiny_run / "status.json").read_text())
    assert [written[name] for name in ("state", "error")] == ["done", None]
    assert written["started"] == written["session_started"] < written["ended"]
    assert written["ended"].endswith("+00:00")
    (run,) = listed(tiny_run, capsys)["runs"]
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert run["metrics"] == {k: v for k, v in metrics.items() if not k.endswith("_step")}
    assert metrics["train_seconds"] < run["duration_s"] == pytest.approx(written["seconds"])


def test_run_by_experiment_and_name(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below ``--runs_dir``, unless there is such a path."""
    copy, output = tmp_path / "all/tiny/copy", tmp_path / "metrics.json"
    shutil.copytree(tiny_run, copy)
    where = ["--runs_dir", str(tmp_path / "all")]
    assert evaluate(["tiny/copy", *where, "--output", str(output)]) == 0
    written = json.loads(output.read_text())
    assert written["checkpoint"] == str(copy / "checkpoints/best.ckpt")
    near = "RUN tiny/cop: no such file or folder.*Did you mean `tiny/copy`"
    with pytest.raises(InputError, match=f"(?s){near}"):
        find.find_run("tiny/cop", tmp_path / "all")
    (copy / "metrics.json").unlink()
    found = find.find_resumable("tiny/copy", tmp_path / "all", "tiny", None)
    assert found == copy / "checkpoints/last.ckpt"


def with_checkpoint(folder: Path, minute: int) -> Path:
    """Make a run that trained last at a minute of 1970."""
    (make(folder, minute) / "checkpoints").mkdir()
    (folder / "checkpoints/best.ckpt").touch()
    os.utime(folder / "config.yaml", (minute, minute))
    return folder


def test_run_as_it_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name, also broken in two or with what a shell completes; of an experiment the newest."""
    runs = tmp_path / "runs"
    old, new = (with_checkpoint(runs / "mlp" / name, n) for n, name in enumerate(["old", "new"], 1))
    other = with_checkpoint(runs / "cnn/last_one", 3)
    trial = with_checkpoint(runs / "sweeps/tuned/mlp/003", 4)
    (tmp_path / "cnn").mkdir()  # somebody's, and no run
    monkeypatch.chdir(tmp_path)
    expected = {
        **dict.fromkeys(["mlp/old", "mlp/old/", "mlp/\nold\n", " mlp/old", str(old)], old),
        **dict.fromkeys(["mlp", "mlp/", "mlp/last", "runs/mlp", str(runs / "mlp/last")], new),
        **dict.fromkeys(["last", "cnn", "cnn/last"], other),
        "mlp/003": trial,
    }
    assert {spec: find.find_run(spec, Path("runs")).folder for spec in expected} == {
        spec: folder if os.sep == spec[0] else folder.relative_to(tmp_path)
        for spec, folder in expected.items()
    }
    newest = "has 2 runs. This is the newest, runs/mlp/new."
    assert capsys.readouterr().err.splitlines() == [
        f"RUN {spec}: {newest}" for spec in ("mlp", "mlp/", "runs/mlp")
    ]
    with_checkpoint(runs / "sweeps/again/mlp/003", 5)
    places = "runs/sweeps/again/mlp/003, runs/sweeps/tuned/mlp/003"
    text = f"RUN mlp/003: is in several sweeps. Give one of these: {places}."
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        find.find_run("mlp/003", Path("runs"))
    with pytest.raises(InputError, match=r"^RUN runs: no checkpoint in runs/checkpoints\.$"):
        find.find_run("runs", Path("runs"))


def test_stopped_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_in_step(TinyModel, 4, patch)
        with pytest.raises(SystemExit):
            train([*TINY, "--runs_dir", str(tmp_path), "--run_name", "run"])
    (run,) = listed(tmp_path, capsys)["runs"]
    assert (run["state"], run["error"]) == ("stopped", None)
    assert run["metrics"].keys() >= {"val/acc", "lr"}  # of the epoch before
    path = tmp_path / "tiny/run/status.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps({**before, "seconds": 1000 + before["seconds"]}))
    assert train(["--resume", str(path.parent)]) == 0
    after = json.loads(path.read_text())
    assert after["started"] == before["started"] < after["session_started"]
    (run,) = listed(tmp_path, capsys)["runs"]
    assert run["state"] == "done"
    assert 1000 + before["seconds"] < run["duration_s"] < 1100


@pytest.mark.parametrize(
    ("loss", "error"),
    [
        (float("nan"), "callbacks.nonfinite: the loss of optimizer step 3 is nan."),
        (None, "RuntimeError: of many"),
    ],
)
def test_failed(
    loss: float | None,
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step: Any = TinyModel.training_step

    def fail(self: TinyModel, *batch: Any) -> Any:
        if self.trainer.global_step != 3:
            return step(self, *batch)
        if loss is None:
            raise RuntimeError("of many\nlines")
        return step(self, *batch) * loss

    monkeypatch.setattr(TinyModel, "training_step", fail)
    with pytest.raises(RuntimeError if loss is None else SystemExit):
        train([*TINY, "--runs_dir", str(tmp_path)])
    (run,) = listed(tmp_path, capsys)["runs"]
    assert (run["state"], run["error"]) == ("failed", error)


@pytest.mark.slow
def test_running_and_killed_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endless = ["--trainer.max_epochs", "-1", "--model.lr_scheduler", "null"]
    endless += ["--callbacks.early_stopping", "null", "--callbacks.progress.interval_s", "0"]
    process = start(*TRAIN, *TINY, *endless, "--runs_dir", str(tmp_path))
    assert process.stdout is not None
    line = ""
    while not line.startswith("epoch 3"):  # a checkpoint has been written
        line = process.stdout.readline()
    (run,) = listed(tmp_path, capsys)["runs"]
    assert (run["state"], run["error"]) == ("running", None)
    assert 0 < run["duration_s"] < 60
    (folder,) = tmp_path.glob("*/*")
    again = [*TINY, "--runs_dir", str(tmp_path)]
    text = (
        f"{folder} is still running (process {process.pid} on {platform.node()}).\n"
        "  Stop it first, or begin another run: --run_name NAME"
    )
    for given in (["--resume", "auto"], ["--resume", str(folder)], ["--run_name", folder.name]):
        fails(train, [*again, *given], f"{' '.join(given)}: {text}", capsys)
    assert train([*again, "--resume", "auto", "--run_name", "other"]) == 0
    shutil.rmtree(folder.with_name("other"))
    process.send_signal(signal.SIGKILL)
    finish(process, -signal.SIGKILL)
    (run,) = listed(tmp_path, capsys)["runs"]
    assert (run["state"], run["error"]) == ("failed", "killed")
    time_killed = run["duration_s"]
    assert 0 < time_killed < 60
    assert main([str(tmp_path)]) == 0
    assert "failed (killed)" in capsys.readouterr().out
    began = time.time()
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    more = str(checkpoint["epoch"] + 3)
    assert train(["--resume", str(folder), "--trainer.max_epochs", more]) == 0
    (run,) = listed(tmp_path, capsys)["runs"]
    assert run["state"] == "done"
    assert time_killed < run["duration_s"] < time_killed + time.time() - began


def test_nothing_left_to_train(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed after the last step, a run is tested when it is gone on with."""
    folder = tmp_path / "tiny/run"
    shutil.copytree(tiny_run, folder)
    (folder / "metrics.json").unlink()
    own = status.read(folder)
    assert own is not None
    since = (folder / "checkpoints/last.ckpt").stat().st_mtime - 50
    began = datetime.fromtimestamp(since, timezone.utc).isoformat()
    killed = own._replace(state="running", session_started=began, seconds=100)
    write_json(folder / status.NAME, killed._asdict())
    assert train(["--resume", str(folder)]) == 0
    (run,) = listed(tmp_path, capsys)["runs"]
    assert run["state"] == "done"
    assert run["duration_s"] == pytest.approx(150, abs=0.01)


def test_metrics_of_the_test_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a", "lr", "val/loss", "val/acc", "test/loss", "test/acc"]
    make(tmp_path / "mlp/a", metrics=dict.fromkeys(names, 0.5))
    order = ["test/acc", "val/acc", "test/loss", "val/loss", "a", "lr"]
    for sort, expected in [([], order), (["--sort", "lr"], ["lr", *order[:-1]])]:
        assert main([str(tmp_path), *sort]) == 0
        assert capsys.readouterr().out.split()[2:-6][: len(names)] == expected


def test_what_is_no_number_is_null_in_json(tmp_path: Path) -> None:
    values = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf"), "e": "nan"}}
    write_json(tmp_path / "a.json", values)
    text = (tmp_path / "a.json").read_text()
    expected = {"a": None, "b": [None, 1.5], "c": {"d": None, "e": "nan"}}
    assert json.loads(text, parse_constant=pytest.fail) == expected


PLAN = "metric: test/acc\nmode: max\nspace: {}\n"
TRIALS = """\
trial,state,value,lr,duration_s,run,error
000,done,0.75,0.1,62.5,mlp/000-s0,
001,done,0.875,0.5,62.5,mlp/001-s0,
002,pruned,0.9375,0.5,3.0,mlp/002-s0,
003,failed,,2.0,,mlp/003-s0,"of ""many,
lines"
004,waiting,,,,,
"""


@pytest.fixture
def swept(made: Path) -> Path:
    """The runs above, and beside them the folder of a sweep with runs of its trials."""
    folder = made / "sweeps/tuned"
    for ticket, acc in enumerate([0.75, 0.875]):
        for seed in (0, 1):
            place, metrics = folder / f"mlp/{ticket:03}-s{seed}", {"test/acc": acc + seed / 16}
            make(place, seed, seed=seed, lr=ticket + 1.0, metrics=metrics)
    for name in ("002-s0", "004-s0"):
        make(folder / "mlp" / name, 9, said={"state": "stopped"})
    make(folder / "mlp/003-s0", 9, said={"state": "failed", "error": "of many"})
    (folder / "trials.csv").write_text(TRIALS)
    (folder / "sweep.yaml").write_text(PLAN)
    return made


SWEEP = """
sweep   trials                                                        best
──────────────────────────────────────────────────────────────────────────
tuned   2 done, 1 pruned, 1 failed, 1 waiting   test/acc 0.875 (trial 001)
"""


def test_sweeps_are_listed_in_a_line(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the runs, without their trials; also where there are no other runs."""
    assert main([str(swept)]) == 0
    assert capsys.readouterr().out == TABLE + SWEEP
    found = listed(swept, capsys)
    assert len(found["runs"]) == 5
    row = {"trial": "001", "state": "done", "value": 0.875, "lr": "0.5", "duration_s": "62.5"}
    expected = {
        "sweep": "tuned",
        "folder": str(swept / "sweeps/tuned"),
        "states": {"done": 2, "pruned": 1, "failed": 1, "waiting": 1},
        "metric": "test/acc",
        "mode": "max",
        "best": {**row, "run": "mlp/001-s0", "error": ""},
    }
    assert found["sweeps"] == [expected]
    shutil.rmtree(swept / "mlp")
    assert listed(swept, capsys) == {"runs": [], "groups": [], "sweeps": [expected]}
    assert listed(swept / "sweeps", capsys)["sweeps"] == [expected]
    assert main([str(swept)]) == 0
    assert capsys.readouterr().out == SWEEP.removeprefix("\n")
    (swept / "sweeps/tuned/sweep.yaml").write_text(PLAN.replace("max", "min"))
    (sweep,) = listed(swept, capsys)["sweeps"]
    assert sweep["best"]["trial"] == "000"


def test_trials_of_a_sweep_are_runs(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of other seeds are grouped."""
    found = listed(swept / "sweeps/tuned", capsys)
    states = {run["run"]: run["state"] for run in found["runs"]}
    assert states == {
        **{f"mlp/00{trial}-s{seed}": "done" for trial in (0, 1) for seed in (0, 1)},
        "mlp/002-s0": "stopped",
        "mlp/003-s0": "failed",
        "mlp/004-s0": "stopped",
    }
    assert [group["metrics"]["test/acc"]["mean"] for group in found["groups"]] == [
        0.875 + 1 / 32,
        0.75 + 1 / 32,
    ]
    assert [sweep["sweep"] for sweep in found["sweeps"]] == ["tuned"]


BEST_FIRST = """\
run          state     val/loss   test/acc   differs in                                  duration
─────────────────────────────────────────────────────────────────────────────────────────────────
mlp/001-s0   done        0.0625        0.9   model.optimizer.lr=1.0, seed_everything=0    0:01:02
mlp/001-s1   done         0.125        0.9   model.optimizer.lr=1.0, seed_everything=1    0:01:02
mlp/000-s0   done          0.25       0.95   model.optimizer.lr=0.0, seed_everything=0    0:01:02
mlp/000-s1   done           0.5       0.95   model.optimizer.lr=0.0, seed_everything=1    0:01:02
mlp/002-s0   stopped    0.03125              model.optimizer.lr=2.0, seed_everything=0    0:01:02
mlp/003-s0   failed                          model.optimizer.lr=3.0, seed_everything=0    0:01:02

Mean ± standard deviation over seeds (number of runs)
experiment              val/loss       test/acc   differs in
────────────────────────────────────────────────────────────────────────
mlp          0.09375 ± 0.044 (2)    0.9 ± 0 (2)   model.optimizer.lr=1.0
mlp             0.375 ± 0.18 (2)   0.95 ± 0 (2)   model.optimizer.lr=0.0
"""


def test_trials_are_listed_best_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the best epoch of what is searched for, as the sweep has it, and never by the test."""
    folder = tmp_path / "sweeps/tuned"
    for ticket, acc in enumerate([0.95, 0.9]):
        for seed in (0, 1):
            loss = (1 + seed) / 4 ** (1 + ticket)
            run = folder / f"mlp/{ticket:03}-s{seed}"
            make(
                run, ticket, seed=seed, lr=float(ticket), metrics={"test/acc": acc, "val/loss": 9.0}
            )
            (run / "metrics.csv").write_text(f"step,val/loss\n1,\n2,{loss}\n3,nan\n4,{loss + 1}\n")
    pruned = make(folder / "mlp/002-s0", 2, lr=2.0, said={"state": "stopped"})
    (pruned / "metrics.csv").write_text("step,val/loss\n1,0.03125\n2,odd\n")
    make(folder / "mlp/003-s0", 3, lr=3.0, said={"state": "failed"})
    (folder / "sweep.yaml").write_text("metric: val/loss\nmode: min\n")
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.startswith(BEST_FIRST)
    order = names(folder, capsys)
    (folder / "sweep.yaml").write_text("metric: val/loss\nmode: max\n")
    assert names(folder, capsys) == ["000-s1", "000-s0", "001-s1", "001-s0", *order[-2:]]
    groups = listed(folder, capsys)["groups"]
    assert [group["config"]["model.optimizer.lr"] for group in groups] == [0.0, 1.0]
    assert names(folder, capsys, "--sort", "-run") == sorted(order, reverse=True)
    assert main([str(folder), "--sort", "run"]) == 0
    assert capsys.readouterr().out.split()[:4] == ["run", "state", "val/loss", "test/acc"]
    (folder / "sweep.yaml").write_text("metric: [odd]\n")  # and what it has none of
    assert names(folder, capsys)[-2:] == ["002-s0", "003-s0"]


def test_last_is_no_trial_of_a_sweep(tiny_run: Path, tmp_path: Path) -> None:
    trial = tmp_path / "sweeps/tuned/tiny/003"
    shutil.copytree(tiny_run, trial)
    with pytest.raises(InputError, match="there is no run in"):
        find.find_run("last", tmp_path)
    assert find.find_resumable("auto", tmp_path, "tiny", None) is None
    for spec in (str(trial), "sweeps/tuned/tiny/003"):
        assert find.find_run(spec, tmp_path).folder == trial
    (tmp_path / "sweeps/tuned/trials.csv").write_text("trial,state,value,run\n003,done,1,tiny/003")
    text = f"RUN sweeps/tuned: is a sweep. Give one of its runs; the best is {trial}."
    with pytest.raises(InputError, match=re.escape(text)):
        find.find_run("sweeps/tuned", tmp_path)


@pytest.mark.parametrize(
    "odd", [pytest.param(odd, marks=[pytest.mark.slow] * (odd == "deep")) for odd in ODD]
)
def test_damaged_sweeps_are_listed(
    odd: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"sweep.yaml": PLAN, "trials.csv": TRIALS}
    for name in files:
        folder = tmp_path / f"sweeps/odd {name}"
        make(folder / "mlp/002", said={"state": "stopped"})
        for file, text in files.items():
            (folder / file).write_text(text)
        (folder / name).unlink()
        content = ODD[odd]
        (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)
    shown = [f"odd {name}" for name in files if name != "sweep.yaml" or ODD[odd] is not None]
    assert sorted(sweep["sweep"] for sweep in listed(tmp_path, capsys)["sweeps"]) == shown[::1]
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    printed.encode()
    for name in files:
        assert names(tmp_path / f"sweeps/odd {name}", capsys) == ["002"]
