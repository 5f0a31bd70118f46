"""What every model of this project promises, asked of each without being told of it."""

from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule

from src import data, models
from src.cli import ProjectCLI
from src.find import CONFIGS
from tests.fitting import fit
from tests.small import small

MODELS = [name for name, found in vars(models).items() if isinstance(found, type)]


def sections() -> dict[str, dict[str, Any]]:
    """Read the configs of experiments, by name; overlays have no model."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(CONFIGS.glob("*.yaml"))}


def configs(model: str) -> list[str]:
    """Name the configs of a model."""
    return [
        name
        for name, config in sections().items()
        if config["model"]["class_path"].rpartition(".")[2] == model
    ]


CASES = [(model, config) for model in MODELS for config in configs(model)]


def build(config: str, folder: Path, how: str) -> LightningModule:
    """Build the model of a config in Python, or by the command line."""
    torch.manual_seed(0)
    if how == "cli":
        built = ProjectCLI(["--config", config, "--runs_dir", str(folder)], training=False).model
    else:
        section = sections()[config]["model"]
        built = getattr(models, section["class_path"])(**section.get("init_args", {}))
    assert isinstance(built, LightningModule)
    return built


def make_data(config: str, model: LightningModule, folder: Path) -> LightningDataModule:
    """Make a config's data with small batches."""
    section = sections()[config]["data"]
    cls = getattr(data, section["class_path"])
    num_classes = model.hparams.get("num_classes", 10)
    made = cls(**{**section.get("init_args", {}), **small(cls, folder, num_classes)})
    assert isinstance(made, LightningDataModule)
    return made


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) and is_plain(value[key]) for key in value)
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


def test_every_model_has_a_config() -> None:
    assert MODELS
    assert {name: configs(name) for name in MODELS if not configs(name)} == {}


@pytest.mark.parametrize("how", ["python", "cli"])
@pytest.mark.parametrize(("name", "config"), CASES)
def test_model(tmp_path: Path, name: str, config: str, how: str) -> None:
    model = build(config, tmp_path, how)
    assert type(model) is getattr(models, name)
    assert is_plain(dict(model.hparams))
    before = {key: value.clone() for key, value in model.state_dict().items()}

    made = make_data(config, model, tmp_path / "images")
    trainer = fit(tmp_path, model, made, limit_train_batches=4, limit_val_batches=1)
    assert trainer.global_step == 4
    logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert {"train/loss", "val/loss"} <= logged.keys()
    assert [key for key, value in logged.items() if not isfinite(value)] == []
    assert [key for key, p in model.named_parameters() if before[key].equal(p.data)] == []

    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)["state_dict"]
    restored = type(model).load_from_checkpoint(path)
    # Lightning's command line adds how to rebuild a model whose class is not known.
    settings = {key: value for key, value in model.hparams.items() if not key.startswith("_")}
    assert dict(restored.hparams) == settings
    here, there = model.state_dict(), restored.state_dict()
    assert list(here) == list(there) == list(saved) == list(before)
    assert [key for key in here if not here[key].equal(there[key])] == []
    assert [key for key in here if not here[key].equal(saved[key])] == []


@pytest.mark.parametrize("config", [config for _, config in CASES])
def test_command_line_builds_what_python_builds(tmp_path: Path, config: str) -> None:
    first, second = (build(config, tmp_path, how) for how in ("python", "cli"))
    assert str(first) == str(second)
    for key in ("optimizer_settings", "scheduler_settings"):
        assert getattr(first, key, None) == getattr(second, key, None)
