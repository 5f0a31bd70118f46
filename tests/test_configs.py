"""Every configuration resolves, and every complete one trains."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.cli import DEFAULT_CONFIG
from src.run import CONFIGS, ROOT
from src.train import main as train

EXPERIMENTS = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
OVERLAYS = sorted(p.stem for p in CONFIGS.glob("overlays/*.yaml"))
# What makes each kind of data small enough for a test.
SMALL = {
    "SyntheticRegressionDataModule": ["--data.num_samples", "64"],
    "SyntheticImageDataModule": ["--data.num_samples", "64", "--data.num_val_samples", "10"],
    "CIFAR10DataModule": ["--data.data_dir", "images", "--data.val_fraction", "0.2"],
    "ImageFolderDataModule": ["--data.roots", "[images/train]"],
}


@pytest.fixture
def _images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for number in range(10):
            folder = tmp_path / "images" / split / f"class{number}"
            folder.mkdir(parents=True)
            for name in ("a.ppm", "b.ppm"):
                (folder / name).write_bytes(b"P6 32 32 255\n" + bytes([20 * number, 0, 0]) * 32**2)


@pytest.mark.usefixtures("_images")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_trains(name: str, tmp_path: Path) -> None:
    data = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["data"]["class_path"]
    config = ["--config", name] if name != DEFAULT_CONFIG else []  # it goes without saying
    args = [*config, "--trainer.max_epochs", "1", *SMALL.get(data, []), "--run_name", "r"]
    assert train(args) == 0
    run = tmp_path / "runs" / name / "r"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epochs"] == 1
    assert metrics["test/loss"] >= 0
    # A resolved configuration resolves to itself.
    saved = (run / "config.yaml").read_text()
    assert train(["--config", str(run / "config.yaml"), "--run_name", "again"]) == 0
    assert (tmp_path / "runs" / name / "again" / "config.yaml").read_text() == saved


def part_of(whole: Any, pattern: Any) -> Any:
    """Take from ``whole`` what ``pattern`` has, with class names as short as there."""
    if isinstance(pattern, dict):
        return {key: part_of(whole[key], value) for key, value in pattern.items()}
    if isinstance(pattern, list) and len(pattern) == len(whole):
        return [part_of(*pair) for pair in zip(whole, pattern, strict=True)]
    if isinstance(pattern, str) and str(whole).endswith(f".{pattern}"):
        return pattern
    return whole


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_wins(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = yaml.safe_load((CONFIGS / "overlays" / f"{name}.yaml").read_text())
    with pytest.raises(SystemExit, match="0"):
        train(["--config", DEFAULT_CONFIG, "--config", f"overlays/{name}", "--print_config"])
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert part_of(resolved, overlay) == overlay


def test_all_are_named_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [name for name in EXPERIMENTS if name not in readme and name != DEFAULT_CONFIG] == []
