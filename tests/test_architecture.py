"""The house keeps its shape: who imports whom, and how large it is."""

import ast
from pathlib import Path

import pytest

from src.find import PACKAGE

SOURCES = sorted(PACKAGE.rglob("*.py"))
# Beside itself and third parties, what each part may import of this project.
ALLOWED = {
    "models": {"checks", "optim", "plots", "readings", "resuming"},
    "data": {"checks"},
    "callbacks": {"checks", "plots", "readings", "replay", "resuming"},
    "optim": {"checks", "muon"},
    "muon": set(),
    "plots": set(),
    "readings": set(),
    "replay": set(),
    "resuming": set(),
    "checkpoints": {"find"},
    "files": {"errors"},
    "lock": set(),
    "status": {"files", "lock"},
    "listing": {"errors", "files", "find", "safe_yaml", "status"},
    "run_tables": {"files", "listing", "status"},
    "runs": {"checks", "errors", "files", "listing", "run_tables"},
    "run": {
        "checks",
        "errors",
        "files",
        "find",
        "lock",
        "optim",
        "readings",
        "safe_yaml",
        "status",
    },
    "checks": set(),
    "errors": {"checks"},
    "find": {"checks", "errors"},
    "safe_yaml": set(),
    "signatures": {"find"},
    "options": {"checks", "errors", "find", "safe_yaml", "signatures"},
    "explain": {"callbacks", "checks", "errors", "find", "options", "safe_yaml"},
    "devices": {"checks"},
    "fsdp": set(),
    "cli": {
        *(
            "callbacks",
            "checkpoints",
            "checks",
            "data",
            "devices",
            "errors",
            "explain",
            "find",
            "fsdp",
        ),
        *("models", "options", "run", "safe_yaml"),
    },
}


def place(path: Path) -> tuple[str, ...]:
    """Name a file's module within the package: its parts."""
    return path.relative_to(PACKAGE).with_suffix("").parts


def imports(text: str, module: tuple[str, ...]) -> set[str]:
    """Name the parts of this project that the text of a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            path = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                path = (PACKAGE.name, *module[: -node.level], *path)
            targets = [(*path, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        found |= {t[1] for t in targets if t[0] == PACKAGE.name and len(t) > 1}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(place(path)))
def test_arrows_point_one_way(path: Path) -> None:
    module = place(path)
    part = module[0]
    if part in ALLOWED:
        assert imports(path.read_text(), module) <= ALLOWED[part] | {part}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("from ..cli import ProjectCLI", {"cli"}),
        ("from .. import optim, run as r", {"optim", "run"}),
        ("from . import augment", {"data"}),
        ("from .in_memory import Arrays", {"data"}),
        (f"from {PACKAGE.name}.models.supervised import Batch", {"models"}),
        (f"from {PACKAGE.name} import cli", {"cli"}),
        (f"def late():\n    import {PACKAGE.name}.cli, torch", {"cli"}),
        ("from torch import nn\nimport torch.nn", set()),
    ],
)
def test_every_import_is_seen(text: str, parts: set[str]) -> None:
    assert imports(text, ("data", "mine")) == parts


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(place(path)))
def test_nothing_happens_at_import(path: Path) -> None:
    """At the top of a module: definitions, constants and imports, no bare call."""
    for node in ast.parse(path.read_text()).body:
        acts = isinstance(node, (ast.For, ast.While, ast.With))
        acts |= isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        assert not acts, ast.unparse(node)


def code_lines(text: str) -> int:
    """Count the lines that hold code: no blank lines, comments or docstrings."""
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.stmt, ast.expr, ast.alias))]
    strings = [n for n in nodes if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    docs = {line for n in strings for line in range(n.lineno, (n.end_lineno or 0) + 1)}
    return len({line for n in nodes for line in (n.lineno, n.end_lineno or 0)} - docs)


def test_stays_small() -> None:
    assert sum(code_lines(path.read_text()) for path in SOURCES) < 7450
