"""Every configuration resolves, and every complete one trains."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from src import data
from src.find import CONFIGS, DEFAULT_CONFIG
from src.train import main as train
from tests.small import small

EXPERIMENTS = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
OVERLAYS = sorted(p.stem for p in CONFIGS.glob("overlays/*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    cls = getattr(data, content["data"]["class_path"])
    num_classes = content["model"].get("init_args", {}).get("num_classes", 10)
    config = ["--config", name] if name != DEFAULT_CONFIG else []  # it goes without saying
    args = [*config, "--trainer.max_epochs", "1", "--run_name", "r"]
    for option, value in small(cls, tmp_path / "images", num_classes).items():
        args += [f"--data.{option}", str(value)]
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
