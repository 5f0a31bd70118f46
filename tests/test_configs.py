"""Every configuration resolves, and every complete one trains."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

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
            for name in ("a.png", "b.png"):
                Image.new("RGB", (32, 32), (20 * number, 0, 0)).save(folder / name)


@pytest.mark.usefixtures("_images")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_trains(name: str, tmp_path: Path) -> None:
    data = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["data"]["class_path"]
    args = ["--config", name, "--trainer.max_epochs", "1", *SMALL.get(data, []), "--run_name", "r"]
    assert train(args) == 0
    run = tmp_path / "runs" / name / "r"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epochs"] == 1
    assert metrics["test/loss"] >= 0
    # A resolved configuration resolves to itself.
    saved = (run / "config.yaml").read_text()
    assert train(["--config", str(run / "config.yaml"), "--run_name", "again"]) == 0
    assert (tmp_path / "runs" / name / "again" / "config.yaml").read_text() == saved


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_wins(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = yaml.safe_load((CONFIGS / "overlays" / f"{name}.yaml").read_text())
    with pytest.raises(SystemExit, match="0"):
        train(["--config", "cifar10", "--config", f"overlays/{name}", "--print_config"])
    resolved = yaml.safe_load(capsys.readouterr().out)
    for section, values in overlay.items():
        assert {key: resolved[section][key] for key in values} == values


def test_all_are_named_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [
        name for name in EXPERIMENTS if name not in readme and name != "linear_regression"
    ] == []
