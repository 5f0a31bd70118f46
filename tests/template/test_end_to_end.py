"""Projects that are used as their owner would: checked, tested, trained, evaluated and resumed."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.template.baking import bake, run
from tests.template.growing import change_examples, grow, remove_cifar10

# What a run must reach, and an option for one that is stopped before its schedule ends.
EXPECTED = {
    "linear_regression": ("test/r2", 0.999, ""),
    "cifar10_synthetic": ("test/acc", 0.9, "--model.lr_scheduler.total_steps {steps}"),
    "mlp": ("test/acc", 0.95, ""),
}
CASES = [
    ({}, "linear_regression"),
    ({"package_name": "myproject"}, "linear_regression"),
    ({"examples": "vision"}, "cifar10_synthetic"),
    ({"examples": "regression"}, "linear_regression"),
    ({"examples": "none"}, "mlp"),
]


# Tests that take long and do not depend on examples: run in the projects with all and with none.
SAME = [f"test_{name}" for name in ("checkpoints", "ddp", "devices", "fsdp", "fuzz", "hostile")]
SAME += [f"test_{name}" for name in ("kill", "lost_process", "predict", "export", "runs", "slurm")]

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
    return run("make", target, *INSTALLED, f"ARGS={args}", folder=project)


def check_tests(project: Path, args: str) -> None:
    """Check that ``make test`` passes."""
    last = make("test", project, args).splitlines()[-1]
    assert re.search(r"\d+ passed", last)
    assert not re.search(r"failed|error", last)


def hide_torchvision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this environment stand for one that was made without torchvision."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT_TORCHVISION)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    run("python", "-c", "import torchvision", folder=folder, status=1)
    run("python", "-c", "import torchmetrics, lightning", folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "config"), CASES, ids=["default", "myproject", "vision", "regression", "none"]
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
    if "examples" in answers:  # else they run below, beside an owner's own
        left_out = SAME if answers["examples"] != "none" else ()
        check_tests(project, " ".join(f"--ignore tests/{name}.py" for name in left_out))

    metric, least, horizon = EXPECTED[config]
    printed = make("train", project, "--run_name whole")
    assert f"runs/{config}/whole" in printed
    whole = json.loads((project / f"runs/{config}/whole/metrics.json").read_text())
    assert whole[metric] > least
    evaluated = run("python", "-m", f"{package}.evaluate", "last", folder=project)
    (shown,) = re.findall(rf"{metric} +│ (\S+)", evaluated)
    assert float(shown) == pytest.approx(whole[metric], rel=1e-6)

    # Stopped within an epoch and resumed, it ends where it does when it is never stopped.
    whole_schedule = horizon.format(steps=whole["steps"])
    make("train", project, f"--run_name parts --trainer.max_steps 100 {whole_schedule}")
    make("train", project, "--resume last --trainer.max_steps -1")
    parts = json.loads((project / f"runs/{config}/parts/metrics.json").read_text())
    assert parts["steps"] == whole["steps"] > 100
    assert parts["test/loss"] == whole["test/loss"]


@pytest.mark.slow
def test_project_that_has_grown(template: Path, tmp_path: Path) -> None:
    """All its tests pass with what its owner has added, and changed in the examples."""
    project = bake(str(template), tmp_path, {"package_name": "myproject"})
    grow(project, "myproject")
    change_examples(project)
    make("check", project)
    check_tests(project, "")


@pytest.mark.slow
def test_project_without_an_example(template: Path, tmp_path: Path) -> None:
    """Its owner has removed one, and the tests that are named after it."""
    project = bake(str(template), tmp_path, {})
    grow(project)
    remove_cifar10(project)
    make("check", project)
    check_tests(project, "tests/data tests/models tests/test_configs.py tests/test_image_use.py")
