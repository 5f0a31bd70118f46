"""Projects that are used as their owner would: checked, tested, trained, evaluated and resumed."""

import json
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.lightkeel.places import alone
from tests.template.baking import bake, run
from tests.template.growing import CSV, DELETED, change_examples, delete, grow

# What a run must reach.
EXPECTED = {
    "linear_regression": ("test/r2", 0.98),
    "cifar10_synthetic": ("test/acc", 0.9),
    "blobs": ("test/acc", 0.95),
}
CASES = [
    ({}, "linear_regression"),
    ({"examples": "vision", "logger": "wandb"}, "cifar10_synthetic"),
    (
        {"examples": "regression", "logger": "mlflow", "package_name": "myproject"},
        "linear_regression",
    ),
    ({"examples": "none"}, "blobs"),
]


# Python reads it at its start, and torchvision is not installed as far as anybody can tell.
WITHOUT_TORCHVISION = """
import sys
from importlib import metadata

class Hidden:
    def find_spec(name, path=None, target=None):
        if name == "torchvision":
            raise ModuleNotFoundError("No module named 'torchvision'", name=name)

def from_name(name, original=metadata.Distribution.from_name):
    if name == "torchvision":
        raise metadata.PackageNotFoundError(name)
    return original(name)

metadata.Distribution.from_name = from_name
sys.meta_path.insert(0, Hidden)
"""


# This environment in place of one of the project's own: the stamp counts as up to date.
INSTALLED = [f"VENV={sys.prefix}", "EXTRAS=", "--old-file", f"{sys.prefix}/.requirements"]


def make(target: str, project: Path, args: str = "") -> str:
    with alone(Path(os.environ["MYPY_CACHE_DIR"])) if target == "check" else nullcontext():
        return run("make", target, *INSTALLED, f"ARGS={args}", folder=project)


def make_test(project: Path, args: str = "") -> str:
    """Check that ``make test`` passes, and return what it prints."""
    printed = make("test", project, args)
    assert re.search(r"\d+ passed", printed.splitlines()[-1]), printed
    return printed


def hide_torchvision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this environment stand for one that was made without torchvision."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT_TORCHVISION)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    run("python", "-c", "import torchvision", folder=folder, status=1)
    run("python", "-c", "import torchmetrics, lightning", folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "config"), CASES, ids=["default", "vision", "regression", "none"]
)
def test_project(
    answers: dict[str, str],
    config: str,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = bake(str(template), tmp_path, answers)
    if answers.get("examples") in ("regression", "none"):
        hide_torchvision(tmp_path / "hiding", monkeypatch)
    package = answers.get("package_name", "src")
    make("check", project)
    make_test(project)

    metric, least = EXPECTED[config]
    printed = make("train", project, "--run_name whole")
    assert f"runs/{config}/whole" in printed
    whole = json.loads((project / f"runs/{config}/whole/metrics.json").read_text())
    assert whole[metric] > least
    evaluated = run("python", "-m", f"{package}.evaluate", "last", folder=project)
    (shown,) = re.findall(rf"{metric} +│ (\S+)", evaluated)
    assert float(shown) == pytest.approx(whole[metric], rel=1e-6)

    if answers.get("examples") == "vision":
        return  # what follows would take minutes
    # Stopped within an epoch and resumed, it ends where it does when it is never stopped.
    make("train", project, "--run_name parts --trainer.max_steps 100")
    make("train", project, "--resume last --trainer.max_steps -1")
    parts = json.loads((project / f"runs/{config}/parts/metrics.json").read_text())
    assert parts["steps"] == whole["steps"] > 100
    assert parts["test/loss"] == whole["test/loss"]


@pytest.mark.slow
def test_project_that_has_grown(template: Path, tmp_path: Path) -> None:
    """All its tests pass with what its owner has added, and changed in the examples."""
    project = bake(str(template), tmp_path, {"package_name": "mine"})
    grow(project, "mine")
    change_examples(project)
    make("check", project)
    printed = make_test(project)
    for number, reason in {
        2: "[Errno 2] No such file or directory: 'data/tabular.csv'",
        1: "No module named 'not_installed'",
    }.items():
        assert re.search(rf"SKIPPED \[{number}\] \S+: {re.escape(reason)}\n", printed), printed
    assert " 3 skipped" in printed
    (project / "data").mkdir()
    (project / "data/tabular.csv").write_text(CSV)
    assert " 2 passed" in make_test(project, "-k tabular").splitlines()[-1]


def deleted(template: Path, folder: Path) -> Path:
    """Make a project, and remove one of each kind from it."""
    project = bake(str(template), folder, {})
    for kind in DELETED:
        delete(project, kind)
    return project


def test_nothing_names_what_was_deleted(template: Path, tmp_path: Path) -> None:
    run("ruff", "check", "--no-cache", folder=deleted(template, tmp_path))


@pytest.mark.slow
def test_what_was_deleted_is_not_missed(template: Path, tmp_path: Path) -> None:
    project = deleted(template, tmp_path)
    args = ["--config", "linear_regression", "--trainer.max_steps", "2", "--run_name", "short"]
    run("python", "-m", "src.train", *args, folder=project)
    assert (project / "runs/linear_regression/short/checkpoints/last.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "examples"),
    [("callback", "regression"), ("model", "vision"), ("dataset", "vision"), ("command", "none")],
)
def test_each_kind_can_be_deleted(kind: str, examples: str, template: Path, tmp_path: Path) -> None:
    project = bake(str(template), tmp_path, {"examples": examples})
    delete(project, kind)
    make("check", project)
    make_test(project)
