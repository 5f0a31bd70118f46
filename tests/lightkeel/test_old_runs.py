"""A run that version 0.2 wrote, when the library was part of the project, still works."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightkeel.options.moved import mend, new_path
from src.evaluate import main as evaluate
from src.train import main as train
from tests.lightkeel.commands import assert_close, fails

OLD = Path(__file__).with_name("old_run")  # two epochs of linear regression
SAME = ["--trainer.max_epochs", "3", "--callbacks.plots", "null"]


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    run = tmp_path / "linear_regression" / "old"
    shutil.copytree(OLD, run)
    (run / "environment.json").write_text("{}")  # it had one
    return run


@pytest.mark.slow
def test_resume_and_repeat(old_run: Path, tmp_path: Path) -> None:
    """Resumed, it ends as one that is made anew with the same configuration."""
    config = ["--config", str(old_run / "config.yaml"), "--runs_dir", str(tmp_path)]
    assert train([*config, *SAME, "--run_name", "anew"]) == 0
    assert train(["--resume", str(old_run), *SAME]) == 0
    assert json.loads((old_run / "metrics.json").read_text())["steps"] == 3 * 32
    assert_close(old_run, old_run.with_name("anew"))
    text = (old_run / "config.yaml").read_text()
    assert "lightkeel.callbacks.nonfinite.Nonfinite" in text
    assert "lookahead" not in text


def test_evaluate(old_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "metrics.json"
    assert evaluate([str(old_run), "--output", str(output)]) == 0
    assert json.loads(output.read_text())["test/loss"] == pytest.approx(1.533138e-4, 1e-5)


@pytest.mark.parametrize(
    ("option", "value", "instead"),
    [
        (
            "callbacks.lookahead",
            {"class_path": "src.callbacks.Lookahead"},
            "Lightning averages weights instead: "
            "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging.",
        ),
        (
            "model.compile_mode",
            "default",
            "Give the mode to callbacks.compile instead: --callbacks.compile.mode.",
        ),
    ],
)
def test_options_that_are_gone(
    option: str, value: Any, instead: str, old_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((old_run / "config.yaml").read_text())
    part, name = option.split(".")
    config[part].get("init_args", config[part])[name] = value
    (old_run / "config.yaml").write_text(yaml.safe_dump(config))
    message = f"{option}: is gone, and this config sets it. {instead}"
    fails(train, ["--resume", str(old_run), *SAME], message, capsys)
    fails(evaluate, [str(old_run)], message, capsys)
    whose = {"callbacks": "callbacks", "model": "LinearRegression"}[part]
    message = f"{option}: {whose} has no such option. {instead}"
    fails(train, [f"--{option}=default"], message, capsys)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("src.callbacks.Progress", "lightkeel.callbacks.progress.Progress"),
        ("src.callbacks.progress.Progress", "lightkeel.callbacks.progress.Progress"),
        ("src.callbacks.LRMonitor", "src.callbacks.LRMonitor"),
        ("src.callbacks.lr_monitor.LRMonitor", "src.callbacks.lr_monitor.LRMonitor"),
        ("src.data.images.ImageDataModule", "lightkeel.data.images.ImageDataModule"),
        ("src.data.ImageDataModule", "lightkeel.data.images.ImageDataModule"),
        ("src.data.CIFAR10DataModule", "src.data.CIFAR10DataModule"),
        ("src.muon.MuonSGD", "lightkeel.models.muon.MuonSGD"),
        ("src.models.Mine", "src.models.Mine"),
        ("other.callbacks.Progress", "other.callbacks.Progress"),
    ],
)
def test_paths_of_classes(before: str, now: str) -> None:
    assert new_path(before) == now


def test_a_config_of_today_is_left_as_it_is() -> None:
    """A model of a person's own may have an option of a name that ours had."""
    config = {"model": {"class_path": "src.models.Mine", "init_args": {"compile_mode": "fast"}}}
    assert mend(config) == config


@pytest.mark.slow
def test_callback_that_the_project_has_deleted(
    old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its runs are evaluated and resumed, and only what a run wrote itself is so lenient."""
    run = old_run
    config = yaml.safe_load((run / "config.yaml").read_text())
    gone = {"class_path": "src.callbacks.gradient_noise.GradientNoise", "init_args": {"std": 0.1}}
    config["callbacks"] |= {"gradient_noise": gone, "weight_norm": None}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert evaluate([str(run), "--output", str(tmp_path / "metrics.json")]) == 0
    capsys.readouterr()
    assert train(["--resume", str(run), *SAME]) == 0
    assert "warning: callbacks.gradient_noise: is gone. The run ends" in capsys.readouterr().err
    mine = tmp_path / "mine.yaml"
    mine.write_text("callbacks: {gradient_noise: null}")
    with pytest.raises(SystemExit, match="2"):
        train(["--config", str(mine)])
