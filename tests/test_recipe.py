"""The README's recipe for a new model, followed to the letter in a copy of the project."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from src.run import ROOT


def test_add_a_model(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for folder in ("src", "configs", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    recipe = (ROOT / "README.md").read_text().split("### Add a model")[1]
    blocks = re.findall(r"```\w+\n(.*?)```", recipe, re.S)
    model, line, config = blocks[:3]
    for block in (model, config):
        path, _, content = block.removeprefix("# ").partition("\n")
        (copy / path).write_text(content)
    with (copy / "src/models/__init__.py").open("a") as file:
        file.write(line)

    def run(*args: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *args], cwd=copy, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("src.train", "--config", "mlp", "--run_name", "first")
    metrics = json.loads((copy / "runs/mlp/first/metrics.json").read_text())
    assert metrics["test/loss"] < 0.5  # the variance of y is 4 + 3.4**2 = 15.6
    run(
        "pytest", "-q", "tests/models/test_contract.py", "tests/test_configs.py", "-k", "mlp or MLP"
    )
