"""The house keeps its shape: who imports whom, and how large it is."""

import ast
from pathlib import Path

import pytest

import lightkeel
from tests.lightkeel.places import PACKAGE, ROOT

LIBRARY = Path(lightkeel.__file__).parent
SOURCES = sorted(LIBRARY.rglob("*.py"))
OWN = sorted(PACKAGE.rglob("*.py"))
# Each may import itself, what stands below it, and third parties.
FLOORS = [
    {"project", "PUBLIC"},
    {"errors"},
    {"runs"},
    {"callbacks", "data", "models"},
    {"options"},
    {"fit", "use"},
    {"sweep"},
    {"commands"},
    {"testing"},
]
BELOW = {part: set().union(*FLOORS[:n]) | {part} for n, fl in enumerate(FLOORS) for part in fl}
BELOW["callbacks"] |= {"models"}
BELOW["use"] |= {"fit"}


def imports(path: Path) -> set[str]:
    """Name the modules that a file imports, with dots."""
    here = path.relative_to(ROOT).with_suffix("").parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = [*here[: -node.level]] if node.level else []
            base += node.module.split(".") if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_arrows_point_one_way(path: Path) -> None:
    part = path.relative_to(LIBRARY).with_suffix("").parts[0]
    names = {name.split(".")[1] for name in imports(path) if name.startswith("lightkeel.")}
    assert part == "__init__" or names <= BELOW[part]
    assert not any(name.split(".")[0] == PACKAGE.name for name in imports(path))


@pytest.mark.parametrize("path", OWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_src_imports_public_names_only(path: Path) -> None:
    """``from lightkeel import NAME``; and of ``lightkeel.commands`` what the commands are."""
    names = {name for name in imports(path) if name.split(".")[0] == "lightkeel"}
    public = {f"lightkeel.{name}" for name in ("Project", *lightkeel.PUBLIC)}
    commands = {f"lightkeel.commands.{file.stem}" for file in (LIBRARY / "commands").glob("*.py")}
    assert names <= public | commands


def test_public_names_are_there() -> None:
    for name in lightkeel.PUBLIC:
        assert hasattr(lightkeel, name)


@pytest.mark.parametrize("path", SOURCES + OWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_happens_at_import(path: Path) -> None:
    """At the top of a module: definitions, constants and imports, no bare call."""
    for node in ast.parse(path.read_text()).body:
        acts = isinstance(node, (ast.For, ast.While, ast.With))
        acts |= isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        assert not acts, ast.unparse(node)


def test_src_stays_small() -> None:
    """At most 1,000 lines for a user to read, and 850 without the one large example."""
    lines = {path: len(path.read_text().splitlines()) for path in OWN}
    assert sum(lines.values()) <= 1000
    assert sum(n for path, n in lines.items() if path.name != "fast_cnn.py") <= 850


def test_library_stays_small() -> None:
    """A line in the changelog says what more lines buy; 5,500 are the aim."""
    lines = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert sum(lines.values()) <= 15004
    assert max(lines.values()) <= 350
