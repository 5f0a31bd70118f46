"""What is found out before the first trial, in a look at the experiment."""

from pathlib import Path
from typing import Any

import pytest

from lightkeel import Project
from lightkeel.errors.bad_input import InputError
from lightkeel.options import cache
from lightkeel.options.cli import ProjectCLI
from lightkeel.options.parser import learn
from lightkeel.sweep.plan import Probed
from lightkeel.sweep.probe import Watch, choose_metric, look
from lightkeel.testing.contract import sweep_tests
from src import PROJECT
from tests.lightkeel.conftest import TINY
from tests.lightkeel.places import PACKAGE
from tests.lightkeel.sweep.test_plan import (
    LR,
    TINY_CONFIG,
    names_are_not_known as names_are_not_known,
    plan,
    written,
)

MODEL = "tests.lightkeel.tiny.TinyModel"
LOGGED = ["train/acc", "train/loss", "val/acc", "val/loss", "val/gain"]
AVAILABLE = f"Available: {', '.join(sorted(LOGGED))}."


def test_look_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--seed_everything", "7", "--callbacks.checkpoint.mode", "min"]
    sweep = plan("--config", TINY_CONFIG, "--seeds", "2", *options)
    assert look(PROJECT, sweep) == Probed("val/acc", "min", 0, "tiny", 7)
    assert [*tmp_path.iterdir()] == []


def chosen(monitor: str | None, *args: str) -> tuple[str, str]:
    """Choose metric and mode, where the checkpoint monitors this."""
    watch = Watch()
    watch.logged, watch.monitor = LOGGED, monitor
    watch.modes = {"val/acc": "max", "val/loss": "min", "train/acc": "max", "val/gain": None}
    return choose_metric(plan("--config", TINY_CONFIG, "--seeds", "2", *args), watch)


@pytest.mark.parametrize(
    ("monitor", "args", "expected"),
    [
        ("val/acc", [], ("val/acc", "max")),
        ("val/acc", ["--mode", "min"], ("val/acc", "min")),
        ("val/acc", ["--metric", "val/loss"], ("val/loss", "min")),
        (None, ["--metric", "train/acc"], ("train/acc", "max")),
        ("val/acc", ["--metric", "val/gain", "--mode", "max"], ("val/gain", "max")),
    ],
)
def test_metric_and_mode(monitor: str | None, args: list[str], expected: tuple[str, str]) -> None:
    assert chosen(monitor, *args) == expected


@pytest.mark.parametrize(
    ("monitor", "args", "message"),
    [
        (None, [], f"metric: missing. {AVAILABLE}"),
        (
            *("val/acc", ["--metric", "val/ac"]),
            "metric: `val/ac` is never logged in training or validation. Did you mean `val/acc`? "
            + AVAILABLE,
        ),
        (
            *("val/acc", ["--metric", "val/gain"]),
            "mode: missing, and `val/gain` does not tell whether less or more is better. Give min "
            "or max.",
        ),
    ],
)
def test_metrics_that_are_refused(monitor: str | None, args: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        chosen(monitor, *args)
    assert str(caught.value) == message


@pytest.mark.slow
def test_whatever_the_parser_takes_is_taken(tmp_path: Path) -> None:
    """Classes with their own options, mappings, callbacks that are off."""
    space = {
        "model": [MODEL, "LinearRegression"],
        "model.dropout": {"low": 0.0, "high": 0.5, "when": {"model": MODEL}},
        "model.num_features": {"choices": [4], "when": {"model": "LinearRegression"}},
        "model.optimizer": [{"name": "SGD", "lr": 0.1}, {"name": "AdamW"}],
        "callbacks.early_stopping": [None, {"monitor": "val/loss"}],
        "trainer.precision": ["32-true", "bf16-mixed"],
        "data.batch_size": {"low": 8, "high": 64, "log": True},
    }
    assert look(PROJECT, plan(written(tmp_path, space=space)))[:2] == ("val/acc", "max")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space": {"model.optimzer.lr": [1]}},
            "model.optimzer: TinyModel has no such option. Did you mean `optimizer`?\n"
            "Tried: model.optimzer.lr=1",
        ),
        (
            {"space": {"data.batch_size": [8, "many"]}},
            "data.batch_size: `many` has the wrong type. Give int.\nTried: data.batch_size=many",
        ),
        (
            {"space": {"data.batch_size": {"low": 8.5, "high": 64.0}}},
            "data.batch_size: `8.5` has the wrong type. Give int.\nTried: data.batch_size=8.5",
        ),
        (
            {"space": {"data.batch_size": {"low": 0, "high": 64}}},
            "data.batch_size: 0 is not at least 1.\nTried: data.batch_size=0",
        ),
        (
            {"space": {"model.dropout": {"low": 0.0, "high": 1.0}, LR: [0.1]}},
            f"model.dropout: 1.0 is not in [0, 1).\nTried: model.dropout=1, {LR}=0.1",
        ),
        (
            {"space": {"model.dropout": {"low": 0, "high": 1}}},
            "space.model.dropout: 0 to 1 are whole numbers, but it takes fractions. Write 0.0 to "
            "1.0, or add step: 1.\nTried: model.dropout=1",
        ),
        (
            {"space": {"model.optimizer.name": ["SGD", "SDG"]}},
            "model.optimizer.name: torch.optim has no `SDG`. Did you mean `SGD`?\n"
            "Tried: model.optimizer.name=SDG",
        ),
        (
            {"space": {"trainer.precision": ["32-true", "16-false"]}},
            "trainer.precision: `16-false` is not a choice. Did you mean `16-true`?\n"
            "Tried: trainer.precision=16-false",
        ),
        (
            {"options": {"seed_everything": True}, "seeds": 3},
            "seed_everything: true is no number. Give one, for seeds to count up.",
        ),
        (
            {"metric": "test/acc"},
            "metric: `test/acc` is never logged in training or validation. Did you mean "
            "`train/acc`? Available: samples_per_s, train/acc, train/loss, val/acc, val/loss.",
        ),
    ],
)
def test_sweeps_that_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        look(PROJECT, plan(written(tmp_path, **changes)))
    assert str(caught.value) == message


@pytest.mark.slow
def test_sweep_that_does_not_fit_fails_the_config_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``tests/test_configs.py`` of each project has it, for each file in ``configs/sweeps``."""
    (tmp_path / PACKAGE.name).symlink_to(PACKAGE)
    (tmp_path / "configs/sweeps").mkdir(parents=True)
    written(tmp_path / "configs/sweeps")
    bad = written(tmp_path, space={"model.widths": [[8], "wide"]})
    Path(bad).rename(tmp_path / "configs/sweeps/bad.yaml")
    try:
        test: Any = sweep_tests(Project(PROJECT.package, root=tmp_path))
        assert test.pytestmark[0].args == ("name", ["bad", "some"])
        test("some", monkeypatch)
        with pytest.raises(InputError, match=r"^model.widths: `wide` has the wrong type"):
            test("bad", monkeypatch)
    finally:
        PROJECT.use()


@pytest.mark.slow
def test_names_are_checked_without_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the parser's names are known, as they are after the first run."""
    cli = ProjectCLI(TINY, training=False)
    known = learn(cli.parser, cli.table)  # type: ignore[arg-type]
    monkeypatch.setattr(cache, "read", lambda: known)
    assert plan(written(tmp_path)).space.keys() == {LR}
    path = written(tmp_path, space={"trainer.max_epoch": [1, 2]})
    with pytest.raises(InputError, match=r"^trainer.max_epoch: trainer has no such option. Did "):
        plan(path)
    with pytest.raises(InputError, match=r"^worker: the command line has .* mean `workers`"):
        plan(written(tmp_path), "--worker", "4")
