"""The house keeps its shape: who imports whom, and how large it is."""

import ast
from pathlib import Path

import pytest

from src.run import ROOT

SOURCES = sorted((ROOT / "src").rglob("*.py"))
PACKAGES = ("models", "data", "callbacks")
# Beside itself and third parties, what each part may import of this project.
ALLOWED = {
    "models": {"checks", "optim"},
    "data": {"checks"},
    "callbacks": {"checks"},
    "optim": {"checks"},
    "run": {"optim", "checks"},
    "checks": set(),
    "errors": {"callbacks", "data", "models", "checks"},
    "cli": {"callbacks", "data", "errors", "models", "run"},
}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "src").parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> set[str]:
    """Name the parts of this project that a module imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "src":
            parts = str(node.module).split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("src.")}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part in ALLOWED:
        assert imports(ast.parse(path.read_text())) <= ALLOWED[part] | {part}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
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
    assert sum(code_lines(path.read_text()) for path in SOURCES) < 2550
