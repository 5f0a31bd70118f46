"""What this repository asks of its own models and configs; a project's owner may do otherwise."""

from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule

from lightkeel.testing.contract import build, keeps_arguments, model_cases
from src import PROJECT, models
from src.train import main as train
from tests.lightkeel.places import CONFIGS, DEFAULT_CONFIG
from tests.lightkeel.small import experiments

CONFIGS_OF_MODELS = [config for _, config in model_cases(PROJECT)]
COPIES = Path(__file__).parents[1] / "lightkeel/experiments"


def in_python(config: str) -> LightningModule:
    """Build the model of a config without the command line."""
    torch.manual_seed(0)
    section = experiments()[config]["model"]
    built = getattr(models, section["class_path"])(**section.get("init_args", {}))
    assert isinstance(built, LightningModule)
    return built


def test_every_model_has_a_config() -> None:
    listed = {name for name, found in vars(models).items() if isinstance(found, type)}
    assert listed == {model for model, _ in model_cases(PROJECT)}


def test_the_tests_experiments_are_those_of_configs() -> None:
    """Copies, as a project's owner may change or remove those in ``configs``."""
    copies = {path.name: path.read_text() for path in COPIES.glob("*.yaml")}
    assert copies == {path.name: path.read_text() for path in CONFIGS.glob("*.yaml")}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, marks=[pytest.mark.slow] * (config == "cifar10_fast"))
        for config in CONFIGS_OF_MODELS
    ],
)
def test_every_parameter_learns(config: str, tmp_path: Path) -> None:
    model, cli = in_python(config), build(PROJECT, config, tmp_path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = cli.trainer
    trainer.fit(model, datamodule=cli.datamodule)
    assert trainer.global_step == 4
    logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert {"train/loss", "val/loss"} <= logged.keys()
    assert [key for key, value in logged.items() if not isfinite(value)] == []
    assert [key for key, p in model.named_parameters() if before[key].equal(p.data)] == []
    assert list(before) == list(model.state_dict())
    # And it can be built again from its checkpoint, see the contract.
    assert keeps_arguments(model)
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    restored = type(model).load_from_checkpoint(path, weights_only=True)
    assert dict(restored.hparams) == dict(model.hparams)


@pytest.mark.parametrize("config", CONFIGS_OF_MODELS)
def test_command_line_builds_what_python_builds(tmp_path: Path, config: str) -> None:
    first, second = in_python(config), build(PROJECT, config, tmp_path).model
    assert str(first) == str(second)
    for key in ("optimizer_settings", "scheduler_settings"):
        assert getattr(first, key, None) == getattr(second, key, None)


def part_of(whole: Any, pattern: Any) -> Any:
    """Take from ``whole`` what ``pattern`` has, with class names as short as there."""
    if isinstance(pattern, dict):
        return {key: part_of(whole[key], value) for key, value in pattern.items()}
    if isinstance(pattern, list) and len(pattern) == len(whole):
        return [part_of(*pair) for pair in zip(whole, pattern, strict=True)]
    if isinstance(pattern, str) and str(whole).endswith(f".{pattern}"):
        return pattern
    return whole


@pytest.mark.parametrize("name", sorted(p.stem for p in CONFIGS.glob("overlays/*.yaml")))
def test_overlay_wins(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = yaml.safe_load((CONFIGS / "overlays" / f"{name}.yaml").read_text())
    with pytest.raises(SystemExit, match="0"):
        train(["--config", DEFAULT_CONFIG, "--config", f"overlays/{name}", "--print_config"])
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert part_of(resolved, overlay) == overlay
