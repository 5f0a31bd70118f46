"""What the owner of a project adds to it, by the table in the README and beside it."""

import re
import shutil
from pathlib import Path

GROWTH = Path(__file__).parent / "growth"
LINES = [f"LEVEL_{number} = {number}  # dB" for number in range(300)]
CSV = "x,y,target\n" + "".join(f"{i / 10},{i % 3},{i / 5}\n" for i in range(32))

# As people write: no types, no docstrings, a name and a branch that another house would refuse.
PLAIN = "def Halve(x, by=2):\n    if x:\n        return x / by\n    else:\n        return None\n"


def grow(project: Path, package: str = "src") -> None:
    """Add models, data, a callback, a loss, their configs and much else to a project."""
    home = project / package
    for path in GROWTH.rglob("*.py"):
        if path.name != "__init__.py":
            shutil.copy(path, home / path.relative_to(GROWTH))
    for path in GROWTH.glob("configs/*.yaml"):
        text = path.read_text().replace("src.", f"{package}.")
        (project / "configs" / path.name).write_text(text)
    # One line each, as the README's table says; the other module is named by its path.
    append(home / "models/__init__.py", "from .tabular import TabularModel as TabularModel")
    append(home / "data/__init__.py", "from .tabular import TabularDataModule as TabularDataModule")
    append(
        home / "callbacks/__init__.py",
        "    weight_norm: WeightNorm | None = None",  # the last field of the table
    )
    edit(
        home / "callbacks/__init__.py",
        "from .lr_monitor import LRMonitor as LRMonitor\n",
        "from .lr_monitor import LRMonitor as LRMonitor\n"
        "from .weight_norm import WeightNorm as WeightNorm\n",
    )
    # A long module, and a long file.
    append(home / "models/sine.py", "\n", *LINES)
    (home / "levels.py").write_text("\n".join(['"""Levels."""', "", *LINES, ""]))
    (project / "tests/test_levels.py").write_text(
        f"from {package}.levels import LEVEL_3\n\n\n"
        "def test_levels() -> None:\n    assert LEVEL_3 == 3\n"
    )
    (project / "tools").mkdir()
    (project / "tools/clean.py").write_text('print("clean")\n')
    (home / "plain.py").write_text(PLAIN)
    edit(project / "pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"')
    edit(project / "pyproject.toml", '    "numpy",\n', '    "numpy",\n    "pandas",\n')


def change_examples(project: Path) -> None:
    """Set what somebody with another machine and task would in the configs of the examples."""
    for path in (project / "configs").glob("*.yaml"):
        text = path.read_text().replace("  accelerator: cpu #", "  #")
        if "accelerator" not in text:
            text = text.replace("trainer:\n", "trainer:\n  accelerator: gpu\n  devices: 2\n")
        text = text.replace("activation: relu", "activation: identity").replace(
            "lr: 0.0", "lr: 0.1"
        )
        path.write_text(text.replace("lr: 0.0", "lr: 0.1"))
    (project / "configs/cifar10_fast.yaml").rename(project / "configs/renamed.yaml")
    (project / "configs/overlays/wide.yaml").write_text("model: {init_args: {channels: [8, 8]}}\n")
    (project / "configs/overlays/other.yaml").write_text(
        "trainer:\n  logger: {class_path: not_installed.Logger}\n"
    )
    (project / "configs/few.yaml").write_text("# Laid over others.\ntrainer: {max_epochs: 1}\n")


# Of each kind, what is removed: files, and words whose lines go from other files.
DELETED: dict[str, tuple[list[str], dict[str, str]]] = {
    "callback": (
        ["src/callbacks/gradient_clipping.py", "tests/test_gradient_clipping.py"],
        {"src/callbacks/__init__.py": "gradient_clipping", "configs/*.yaml": "gradient_clipping"},
    ),
    "model": (
        ["src/models/fast_cnn.py", "configs/cifar10_fast.yaml"],
        {"src/models/__init__.py": "fast_cnn"},
    ),
    "dataset": (
        [
            *("src/data/cifar10.py", "configs/cifar10.yaml", "configs/cifar10_fast.yaml"),
            "configs/sweeps/cifar10.yaml",
        ],
        {"src/data/__init__.py": "cifar10"},
    ),
    "command": (["src/export.py"], {}),
}


def delete(project: Path, kind: str) -> None:
    """Remove a callback, model, dataset or command, as the README says."""
    removed, named = DELETED[kind]
    for name in removed:
        (project / name).unlink(missing_ok=name.startswith("configs/"))
    for pattern, word in named.items():
        for path in project.glob(pattern):
            lines = path.read_text().splitlines(keepends=True)
            kept = "".join(line for line in lines if word not in line)
            path.write_text(kept.removesuffix("callbacks:\n"))  # where it was the only one


def append(path: Path, *lines: str) -> None:
    """Put lines at the end of a file."""
    path.write_text("\n".join([path.read_text().rstrip("\n"), *lines, ""]))


def edit(path: Path, old: str, new: str) -> None:
    """Replace the one place that a text has in a file."""
    text = path.read_text()
    assert len(re.findall(re.escape(old), text)) == 1, (path, old)
    path.write_text(text.replace(old, new))
