"""What a sweep file and the command line ask for, and which of that is refused before a trial."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightkeel.errors.bad_input import Arguments
from lightkeel.options import cache
from lightkeel.sweep.arguments import add_arguments, read_sweep, split
from lightkeel.sweep.plan import IS_GRID, Sweep, args_of, as_yaml, describe, identity
from lightkeel.sweep.space import Choice, Range
from src.sweep import main
from tests.lightkeel.commands import fails
from tests.lightkeel.conftest import TINY
from tests.lightkeel.places import DEFAULT_CONFIG

TINY_CONFIG = TINY[1]
LR = "model.optimizer.lr"
MINIMAL: dict[str, Any] = {"config": TINY_CONFIG, "space": {LR: [0.1, 0.2]}, "num_trials": 3}


@pytest.fixture(autouse=True)
def names_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before the first run of all; else unknown names would be refused without a look."""
    monkeypatch.setattr(cache, "read", lambda: None)


def plan(*args: str) -> Sweep:
    """Plan what a command line asks for."""
    parser = Arguments(prog="sweep")
    add_arguments(parser)
    own, passed = split(parser, args)
    return read_sweep(parser.parse_args(own), passed)


def written(folder: Path, **changes: Any) -> str:
    """Write a sweep file that is as small as it can be, but for ``changes``."""
    path = folder / "some.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}, sort_keys=False))
    return str(path)


def test_each_setting_of_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text(f"""
config: [{TINY_CONFIG}, overlays/debug]
options: {{trainer.max_epochs: 5, model.widths: [8]}}
metric: val/loss
mode: min
space:
  {LR}: {{low: 1e-4, high: 1e-1, log: true}}
  model.optimizer.weight_decay: [1e-3, 0.1]
sampler: {{name: TPESampler, n_startup_trials: 5}}
pruner: median
num_trials: 20
max_time: "01:02:03:04"
seeds: 3
seed: 7
""")
    assert plan(str(path)) == Sweep(
        name="wide",
        config=(TINY_CONFIG, "overlays/debug"),
        options=("--trainer.max_epochs=5", "--model.widths=[8]"),
        metric="val/loss",
        mode="min",
        space={
            LR: Range(0.0001, 0.1, log=True),  # text to YAML itself
            "model.optimizer.weight_decay": Choice((0.001, 0.1)),
        },
        sampler="TPESampler",
        sampler_args={"n_startup_trials": 5},
        pruner="MedianPruner",
        pruner_args={},
        num_trials=20,
        max_time_s=93784.0,
        seeds=3,
        seed=7,
    )


def test_sweep_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    space = {
        "model.optimizer.name": ["SGD", None, [1, 2]],
        "model.optimizer.momentum": {
            "low": 0.0,
            "high": 0.9,
            "step": 0.3,
            "when": {"model.optimizer.name": [1, 2]},
        },
        "trainer.precision": {"choices": [32], "when": {"model.optimizer.name": ["SGD", None]}},
        LR: {"low": 1e-5, "high": 1, "log": True},
    }
    more: dict[str, Any] = {
        "options": {"model.widths": [8], "a": "1"},
        "metric": "val/acc",
        "mode": "max",
    }
    more |= {"sampler": {"name": "tpe", "gamma": 3}, "pruner": "median", "seeds": 2}
    first = plan(written(tmp_path, space=space, max_time="12:13:14:15", **more))
    again = tmp_path / "again.yaml"
    again.write_text(as_yaml(first))
    assert plan(str(again), "--name", "some") == first
    grid = plan("--config", TINY_CONFIG, "--grid", f"{LR}=[0.1,1e-2]")
    again.write_text(as_yaml(grid))
    assert plan(str(again), "--name", grid.name) == grid
    seeds = plan("--seeds", "2", "--name", "again")
    again.write_text(as_yaml(seeds))
    assert again.read_text() == "{sampler: grid, seeds: 2, seed: 0}\n"
    assert plan(str(again)) == seeds


def test_sweep_is_written_as_by_a_person(tmp_path: Path) -> None:
    space = {
        LR: {"low": 0, "high": 0.5},
        "model.optimizer.name": ["SGD", None],
        "b": {"low": 0.2, "high": 0.8, "step": 0.2, "when": {"model.optimizer.name": "SGD"}},
        "c": {"choices": [[1, 2]], "when": {"model.optimizer.name": ["SGD", None], "b": 0.4}},
    }
    raw = ["--a=1e-5", "--d=007", "--e={x: 1}", "--f=*.png"]
    pruner = {"name": "median", "n_warmup_steps": 1}
    options = {"callbacks.plots": None}
    path = written(tmp_path, space=space, pruner=pruner, max_time="00:00:01:00", options=options)
    sweep = plan(path, *raw)
    again = tmp_path / "again.yaml"
    again.write_text(as_yaml(sweep))
    expected = f"""\
config: {TINY_CONFIG}
options:
  a: 1e-5
  d: '007'
  e: {{x: 1}}
  f: '*.png'
  callbacks.plots: null
space:
  {LR}: {{low: 0, high: 0.5}}
  model.optimizer.name: [SGD, null]
  b:
    low: 0.2
    high: 0.8
    step: 0.2
    when: {{model.optimizer.name: SGD}}
  c:
    choices:
    - [1, 2]
    when: {{model.optimizer.name: SGD, b: 0.4}}
sampler: TPESampler
pruner: {{name: MedianPruner, n_warmup_steps: 1}}
num_trials: 3
seeds: 1
seed: 0
max_time: 00:00:01:00
"""
    assert again.read_text() == expected
    assert identity(plan(str(again))) == identity(sweep)


def test_command_line_wins(tmp_path: Path) -> None:
    path = written(tmp_path, options={"trainer.max_epochs": 5, "data.batch_size": 8}, seeds=2)
    sweep = plan(
        *("--trainer.max_epochs", "7", path, "--config", "overlays/debug"),
        *("--metric", "val/acc", "--mode=max", "--num_trials", "9", "--seeds", "5", "--seed", "3"),
        *("--sampler", "random", "--pruner", "{name: HyperbandPruner, reduction_factor: 2}"),
        *("--name", "other", "--max_time", "00:00:00:30"),
    )
    assert sweep == Sweep(
        name="other",
        config=(TINY_CONFIG, "overlays/debug"),
        options=("--trainer.max_epochs=7", "--data.batch_size=8"),
        metric="val/acc",
        mode="max",
        space={LR: Choice((0.1, 0.2))},
        sampler="RandomSampler",
        sampler_args={},
        pruner="HyperbandPruner",
        pruner_args={"reduction_factor": 2},
        num_trials=9,
        max_time_s=30.0,
        seeds=5,
        seed=3,
    )


def test_grid_on_the_command_line() -> None:
    sweep = plan(
        *("--config", TINY_CONFIG, "--grid", f"{LR}=[1e-3,0.01]", "--seeds", "5"),
        *("--grid=model.widths=[[6], [6, 12]]", "--data.batch_size", "16"),
    )
    assert (sweep.name, sweep.sampler, sweep.seeds) == ("tiny-lr-widths", "grid", 5)
    assert sweep.space == {LR: Choice((0.001, 0.01)), "model.widths": Choice(([6], [6, 12]))}
    assert args_of(sweep, {LR: 0.01, "model.widths": [6]}) == [
        *("--config", TINY_CONFIG, "--data.batch_size=16"),
        *("--model.widths=[6]", f"--{LR}=0.01"),
    ]


def test_option_without_a_value_takes_none_of_the_next() -> None:
    made = plan("--seeds", "2", "--trainer.max_epochs", "--name", "n")
    assert (made.name, made.options) == ("n", ("--trainer.max_epochs=",))


def test_seeds_alone_are_one_point() -> None:
    sweep = plan("--seeds", "3")
    assert (sweep.name, sweep.space, sweep.seeds) == (f"{DEFAULT_CONFIG}-seeds", {}, 3)
    assert args_of(sweep, {}) == []


def test_identity_is_what_makes_trials_comparable(tmp_path: Path) -> None:
    same = {"num_trials": 9, "max_time": "00:00:01:00", "sampler": "random", "pruner": "median"}
    first = identity(plan(written(tmp_path)))
    assert identity(plan(written(tmp_path, **same))) == first
    changes: list[tuple[dict[str, Any], str, str]] = [
        ({"options": {"trainer.max_epochs": 3}}, "options.trainer.max_epochs", "3"),
        ({"metric": "val/loss"}, "metric", "val/loss"),
        ({"mode": "min"}, "mode", "min"),
        ({"seeds": 2}, "seeds", "2"),
        ({"seed": 1}, "seed", "1"),
        ({"space": {LR: [0.1, 0.3]}}, f"space.{LR}", "[0.1, 0.3]"),
        ({"config": DEFAULT_CONFIG}, "config", DEFAULT_CONFIG),
        ({"sampler": "grid", "num_trials": None}, "sampler", IS_GRID[True]),
    ]
    for change, key, value in changes:
        other = identity(plan(written(tmp_path, **change)))
        assert dict(other.items() - first.items()) == {key: value}


def test_setting_that_is_new_must_not_change(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Wider(Sweep):
        depth: int

    first = vars(plan(written(tmp_path)))
    one, two = (identity(Wider(**first, depth=depth)) for depth in (1, 2))
    assert dict(two.items() - one.items()) == {"depth": "2"}


def test_points_are_described_for_people() -> None:
    point = {LR: 0.00312345, "model.widths": [6, 12], "data.batch_size": 100_000, "off": None}
    text = f"{LR}=0.003123, model.widths=[6, 12], data.batch_size=100000, off=null"
    assert describe(point) == text


OWN_TRIALS = "Leave num_trials and arguments out, or use another sampler."
HOUR = 'Give days, hours, minutes and seconds in quotes, as in "00:01:00:00" (an hour).'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spaec": {}}, "spaec: a sweep file has no such setting. Did you mean `space`?"),
        (
            {"spaec": {}, "trails": 3, "num_trails": 3},
            "spaec, trails, num_trails: a sweep file has no such setting. Did you mean `space`? "
            "Did you mean `num_trials`?",
        ),
        (
            {"model": "SimpleCNN"},
            "model: a sweep file has no such setting. Name an experiment in `config`.",
        ),
        ({"config": 3}, "--config 3: no such config. …"),
        ({"options": [1]}, "options: [1] is no mapping. Give option: value."),
        ({"space": {1: [2]}, "options": {1: 3}}, "space.1: is given as an option too. Leave …"),
        (
            {"options": {LR: 1}},
            f"space.{LR}: is given as an option too. Leave either out.",
        ),
        (
            {"space": {LR: [0.1], "model.init_args.optimizer.lr": [0.2]}},
            f"model.init_args.optimizer.lr: is written {LR} in a sweep.",
        ),
        (
            {"options": {"model.class_path": "A"}},
            "model.class_path: is written model in a sweep.",
        ),
        (
            {"options": {"run_name": "a"}},
            "options.run_name: is not for a sweep to vary or to set. A sweep names its runs.",
        ),
        (
            {"options": {"resume": "auto"}},
            "options.resume: is not for a sweep to vary or to set. A sweep resumes by itself.",
        ),
        (
            {"options": {"trainer.fast_dev_run": 1}},
            "options.trainer.fast_dev_run: is not for a sweep to vary or to set. Runs are to write "
            "what is searched for; see trainer.max_epochs.",
        ),
        (
            {"space": {"runs_dir": ["a", "b"]}},
            "space.runs_dir: is not for a sweep to vary or to set. Give --runs_dir to the sweep.",
        ),
        (
            {"space": {"seed_everything": [1, 2]}},
            "space.seed_everything: is not for a sweep to vary or to set. Give `seeds`, the number "
            "of seeds that each point is trained with.",
        ),
        (
            {"mode": "maximize"},
            "--mode maximize: is no choice. Did you mean `max`? Available: max, min.",
        ),
        ({"num_trials": 0}, "num_trials: 0 is no whole number of at least 1. Give one."),
        ({"num_trials": 2.5}, "num_trials: 2.5 is no whole number of at least 1. Give one."),
        (
            {"num_trials": None},
            "num_trials: missing. Give it, or max_time, as in 00:01:00:00 (an hour), or sampler: "
            "grid.",
        ),
        (
            {"num_trials": None, "space": {LR: {"low": 0.1, "high": 1.0}}},
            "num_trials: missing. Give it, or max_time, as in 00:01:00:00 (an hour).",
        ),
        ({"sampler": "grid"}, f"sampler: a grid's trials are its points. {OWN_TRIALS}"),
        (
            {"sampler": {"name": "grid", "seed": 3}, "num_trials": None},
            f"sampler: a grid's trials are its points. {OWN_TRIALS}",
        ),
        (
            {"sampler": "grid", "num_trials": None, "space": {LR: {"low": 0.1, "high": 1.0}}},
            f"space.{LR}: a grid needs a step or choices. Give one, or another sampler.",
        ),
        ({"space": {}}, "space: empty. Give options, or sampler grid."),
        (
            {"sampler": {"n_startup_trials": 3}},
            "sampler: {n_startup_trials: 3} has no name. Give that of a class of Optuna.",
        ),
        ({"pruner": 3}, "pruner: 3 has no name. Give that of a class of Optuna."),
        ({"max_time": "1:00"}, f"max_time: 1:00 is no time. {HOUR}"),
        ({"max_time": 3600}, f"max_time: 3600 is no time. {HOUR}"),
        ({"max_time": "00:00:00:00"}, f"max_time: 00:00:00:00 is no time. {HOUR}"),
        ({"seeds": 0}, "seeds: 0 is no whole number of at least 1. Give one."),
        ({"seeds": True}, "seeds: true is no whole number of at least 1. Give one."),
        ({"seed": -1}, "seed: -1 is no whole number of at least 0. Give one."),
        ({"config": "tny"}, "--config tny: no such config. …"),
    ],
)
def test_files_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    fails(main, [written(tmp_path, **changes)], message, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: }", "SWEEP {}: is no valid YAML, line 2: …"),
        ("[1]", "SWEEP {}: [1] is no mapping. Give option: value."),
        (
            "seed: 1\nseed: 2",
            "SWEEP {}: is no valid YAML: line 2: `seed` is given twice, first in…",
        ),
        ("num_trials: 3", "space: empty. Give options, or sampler grid."),
        ("space: [1]", "space: [1] is no mapping. Give option: value."),
    ],
)
def test_texts_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    fails(main, [str(path)], message.format(path), capsys)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "SWEEP: missing. Give one, as sweeps/NAME, or --grid KEY=[...], or --seeds N."),
        (["sweeps/nowhere"], "SWEEP sweeps/nowhere: no such config. …"),
        (
            [TINY_CONFIG],
            f"SWEEP {TINY_CONFIG}: is the config of an experiment. Give --config {TINY_CONFIG} "
            "--grid OPTION=[...], or a sweep file.",
        ),
        (
            ["--grid", f"{LR}=0.1"],
            f"--grid {LR}: 0.1 is no list. Give an option and its values, as in --grid "
            f"{LR}=[0.001,0.01]",
        ),
        (
            ["--grid", LR],
            f"--grid {LR}: it is no list. Give an option and its values, as in --grid "
            f"{LR}=[0.001,0.01]",
        ),
        (["--grid", f"{LR}=[1"], f"--grid {LR}: is no valid YAML, line …"),
        (
            ["--grid", f"{LR}=[1]", "--grid", f"{LR}=[2]"],
            f"--grid {LR}: is given twice. Give all its values at once.",
        ),
        (["--seeds", "0"], "seeds: 0 is no whole number of at least 1. Give one."),
        (["--seeds", "3", "--workers", "0"], "--workers 0: is not at least 1."),
        (["--seeds", "3", "--name", "a/b"], "--name 'a/b': is not the name of a folder."),
        (
            ["--seeds", "3", "--mode", "mim"],
            "--mode mim: is no choice. Did you mean `min`? Available: max, min.",
        ),
    ],
)
def test_arguments_that_are_refused(
    capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    fails(main, args, message, capsys)


def test_file_and_grid_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    message = f"--grid a=[1]: with SWEEP {path}. Leave either out; what has spaces needs quotes."
    fails(main, [path, "--grid", "a=[1]"], message, capsys)
