"""Sweeps of real runs: each in a process of its own, however it ends."""

import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("optuna")

from lightkeel.runs import status
from lightkeel.runs.files import read_json
from lightkeel.sweep.database import file_address
from src.sweep import main as sweep
from src.train import main as train
from tests.lightkeel.commands import experiment, fails, finish, same
from tests.lightkeel.sweep.watched import at_work, members, start, trials, until

FATED = ["--config", str(Path(__file__).with_name("fated.yaml"))]
LINE = [*experiment("linear_regression"), "--callbacks.plots=null"]
LR = "model.optimizer.lr"


def written(folder: Path, **content: Any) -> str:
    """Write a sweep file of the experiment ``fated``."""
    file = folder / "fated.yaml"
    file.write_text(yaml.safe_dump({"config": FATED[1], **content}))
    return str(file)


@pytest.mark.extras
def test_grid(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each point once; values are those of the same runs by themselves."""
    points, short = {"000": "0.01", "001": "0.05"}, ["--trainer.max_epochs=1"]
    args = [*LINE, *short, "--grid", f"{LR}=[{','.join(points.values())}]", "--workers=2"]
    assert sweep([*args, "--runs_dir", str(tmp_path), "--name=grid"]) == 0
    expected = {}
    for name, lr in points.items():
        alone = ["--runs_dir", str(tmp_path), "--run_name", name, f"--{LR}={lr}"]
        assert train([*LINE, *short, *alone]) == 0
        run, again = (
            tmp_path / "sweeps/grid/linear_regression" / name,
            tmp_path / "linear_regression",
        )
        assert same(run, again / name)
        expected[name] = json.loads((again / name / "metrics.json").read_text())["val/loss"]
    found = trials(file_address(tmp_path / "sweeps/grid"), "grid")
    assert [t.params for t in found] == [{LR: float(lr)} for lr in points.values()]
    assert [t.value for t in found] == pytest.approx([*expected.values()], rel=1e-6)
    best = min(expected, key=expected.__getitem__)
    table = capfd.readouterr().out
    assert f"linear_regression/{best}" in next(
        line for line in table.splitlines() if "optimizer.lr=" in line and line.startswith("linear")
    )


@pytest.mark.extras
def test_failures_are_recorded_and_passed_over(tmp_path: Path) -> None:
    grid = ["--grid", "model.fate=[fine,nan,crash,kill]"]
    place = ["--runs_dir", str(tmp_path), "--name=fates"]
    assert sweep([*FATED, *grid, *place]) == 0
    found = trials(file_address(tmp_path / "sweeps/fates"), "fates")
    assert [(t.params["model.fate"], t.state.name, t.value) for t in found] == [
        ("fine", "COMPLETE", 0.5),
        ("nan", "FAIL", None),
        ("crash", "FAIL", None),
        ("kill", "FAIL", None),
    ]
    assert [t.user_attrs["error"] for t in found] == [
        None,
        "val/loss is nan",
        "RuntimeError: as it was told to",
        "killed (SIGKILL); out of memory?",
    ]
    assert sweep([*FATED, *grid, *place]) == 0  # there is nothing left to do
    assert len(trials(file_address(tmp_path / "sweeps/fates"), "fates")) == 4


@pytest.mark.extras
def test_as_many_as_there_is_time_for(tmp_path: Path) -> None:
    """No trial begins when the time is over, and none is broken off."""
    file = written(tmp_path, space={"model.value": {"low": 0.0, "high": 1.0}}, sampler="random")
    assert sweep([file, "--max_time=00:00:00:01", "--runs_dir", str(tmp_path)]) == 0
    found = trials(file_address(tmp_path / "sweeps/fated"), "fated")
    assert [t.state.name for t in found] == ["COMPLETE"] * len(found)
    assert [t.user_attrs["ticket"] for t in found] == [*range(len(found))]
    begun = [t.datetime_start for t in found]
    assert begun
    assert (begun[-1] - begun[0]).total_seconds() < 1


@pytest.mark.extras
def test_all_trials_fail(tmp_path: Path) -> None:
    args = [*FATED, "--grid", "model.fate=[nan]", "--runs_dir", str(tmp_path)]
    assert sweep(args) == 1


@pytest.mark.extras
def test_seeds(tmp_path: Path) -> None:
    """The mean of the runs counts; one that fails fails its trial."""
    args = [*LINE, "--trainer.max_epochs=1", "--seeds=2", "--seed_everything=5", "--name=seeds"]
    assert sweep([*args, "--workers=2", "--runs_dir", str(tmp_path)]) == 0
    (trial,) = trials(file_address(tmp_path / "sweeps/seeds"), "seeds")
    assert trial.user_attrs["runs"] == [f"linear_regression/000-s{seed}" for seed in (5, 6)]
    runs = [tmp_path / "sweeps/seeds" / run for run in trial.user_attrs["runs"]]
    values = [json.loads((run / "metrics.json").read_text())["val/loss"] for run in runs]
    assert trial.user_attrs["values"] == pytest.approx(values, rel=1e-6)
    assert trial.value == pytest.approx(sum(values) / 2, rel=1e-6)
    assert values[0] != values[1]


@pytest.mark.extras
def test_pruned_runs_are_saved(tmp_path: Path) -> None:
    """By the median of what others had come to in the same epoch, from the second one on."""
    file = written(
        tmp_path,
        options={"trainer.max_epochs": 3},
        space={"model.value": [0.0, 1.0, -1.0, 2.0]},
        sampler="grid",
        pruner={"name": "MedianPruner", "n_startup_trials": 1, "n_warmup_steps": 1},
    )
    assert sweep([file, "--runs_dir", str(tmp_path)]) == 0
    found = trials(file_address(tmp_path / "sweeps/fated"), "fated")
    assert [t.state.name for t in found] == ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED"]
    assert [t.intermediate_values for t in found[1::2]] == [{0: 2.0, 1: 1.5}, {0: 3.0, 1: 2.5}]
    assert found[2].intermediate_values == pytest.approx({0: 0.0, 1: -0.5, 2: 1 / 3 - 1})
    assert found[2].value == pytest.approx(1 / 3 - 1)
    pruned = status.read(tmp_path / "sweeps/fated/fated/001")
    assert pruned is not None
    assert pruned.state == "stopped"
    (tmp_path / "sweeps/fated/fated/001/checkpoints/last.ckpt").stat()


@pytest.mark.extras
def test_trials_on_several_devices(tmp_path: Path) -> None:
    """Lightning starts the other ranks as it does from ``src.train``."""
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1"]
    args = [*LINE, *two, "--grid", f"{LR}=[0.05]", "--name=two", "--runs_dir", str(tmp_path)]
    assert sweep(args) == 0
    (trial,) = trials(file_address(tmp_path / "sweeps/two"), "two")
    same = [f"--{LR}=0.05", "--trainer.max_epochs=1", "--runs_dir", str(tmp_path / "one")]
    assert train([*LINE, *same]) == 0
    (one,) = tmp_path.glob("one/*/*")
    metrics = json.loads((one / "metrics.json").read_text())
    assert trial.value == pytest.approx(metrics["val/loss"], rel=1e-4)
    said = read_json(tmp_path / "sweeps/two" / trial.user_attrs["runs"][0] / "environment.json")
    assert said["num_devices"] == 2
    assert said["command"].startswith("python -m src.train --config ")
    assert "Traceback" not in (tmp_path / "sweeps/two/logs/000.log").read_text()


@pytest.mark.extras
def test_killed_then_interrupted_then_done(tmp_path: Path) -> None:
    """Each time the running trial is saved and resumed, and no process is left."""
    args = [*LINE, "--trainer.max_epochs=40", "--grid", f"{LR}=[0.01]", "--name=killed"]
    args += ["--runs_dir", str(tmp_path / "runs")]
    killed = start(*args)
    first = until(lambda: at_work(tmp_path / "runs", killed))
    os.kill(killed.pid, signal.SIGKILL)
    until(lambda: not members(killed))
    killed.communicate()
    assert first.name == "000"
    assert (found := status.read(first)) is not None
    assert found.state == "stopped"
    assert "the sweep is gone" in (first.parents[1] / "logs/000.log").read_text()

    stopped = start(*args)
    run = until(lambda: at_work(tmp_path / "runs", stopped))
    os.killpg(stopped.pid, signal.SIGINT)
    errors = finish(stopped, 130)
    until(lambda: not members(stopped))
    assert errors.splitlines()[-2:] == [
        f"stopped: {tmp_path}/runs/sweeps/killed",
        f"resume: python -m src.sweep {shlex.join(args)}",
    ]
    assert (found := status.read(run)) is not None
    assert found.state == "stopped"

    assert finish(start(*args)) == ""
    done = trials(file_address(tmp_path / "runs/sweeps/killed"), "killed")
    assert [(t.user_attrs["ticket"], t.state.name) for t in done] == [
        (0, "FAIL"),
        (0, "FAIL"),
        (0, "COMPLETE"),
    ]
    assert len(done[-1].intermediate_values) >= 39  # a kill may lose one
    alone = ["--runs_dir", str(tmp_path), "--run_name=000", f"--{LR}=0.01"]
    assert train([*LINE, "--trainer.max_epochs=40", *alone]) == 0
    assert same(first, tmp_path / "linear_regression/000")


@pytest.mark.extras
def test_folder_belongs_to_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightkeel.runs import lock

    folder = tmp_path / "sweeps/taken"
    folder.mkdir(parents=True)
    held = lock.take(folder)
    who = lock.holder(folder)
    args = [*FATED, "--seeds=1", "--name=taken", "--runs_dir", str(tmp_path)]
    fails(
        sweep,
        args,
        f"--name taken: {folder} is in use ({who}).\n"
        "  Several commands share a sweep with --storage postgresql://user@host/name.",
        capsys,
    )
    lock.release(folder, held)
    assert [*folder.iterdir()] == []
