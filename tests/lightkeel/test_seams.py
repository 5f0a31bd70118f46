"""What others do not document is used in two places: see docs/lightning.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lightkeel.places import PACKAGE, ROOT
from tests.lightkeel.test_architecture import LIBRARY

SEAMS = [LIBRARY / "fit" / "lightning_state.py", *(LIBRARY / "fit" / "fastpath").iterdir()]
SOURCES = sorted({*LIBRARY.rglob("*.py"), *PACKAGE.rglob("*.py")} - {*SEAMS})
OTHERS = {"torch", "torchvision", "lightning", "lightning_utilities", "torchmetrics"}
OTHERS |= {"jsonargparse"}
# Documented, whatever their names look like.
DOCUMENTED = {
    *("_replace", "_asdict", "_fields"),  # of named tuples
    "_exit",  # of `os`
}
FOREACH = "_foreach_"  # torch's operations on lists of tensors, documented as such
# By file: what may not move to the two files, and why.
ALLOWED: dict[str, set[str]] = {
    # The rules by which jsonargparse keeps arguments of another class have no public switch.
    "lightkeel/options/parser.py": {"_typehints"},
    # What `multiprocessing` leaves out as a forked process ends, and loggers count on.
    "lightkeel/sweep/processes.py": {"_run_exitfuncs"},
    # What `update` notes of a metric, in Python, which a graph does not run; no other way to it.
    "lightkeel/callbacks/graph_state.py": {
        *("_update_count", "_computed", "_forward_cache", "_reductions"),
    },
    "lightkeel/callbacks/graphed_step.py": {"_results"},
}


def is_private(name: str) -> bool:
    is_own = name.startswith(("__", FOREACH)) or name in DOCUMENTED
    return name.startswith("_") and not is_own


def private_names(path: Path) -> Iterator[str]:
    """Name what a file reads of others by names that begin with an underscore."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            is_super = ast.unparse(node.value) == "super()"
            if is_private(node.attr) and not own and not is_super:
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            *("getattr", "setattr", "hasattr", "delattr"),
        ):
            name = node.args[1]
            owner = ast.unparse(node.args[0])
            text = name.value if isinstance(name, ast.Constant) else ""
            if is_private(str(text)) and owner != "self":
                yield str(text)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = (node.module or "").split(".")
            if module[0] in OTHERS:
                parts = [*module, *(alias.name for alias in node.names)]
                yield from (part for part in parts if is_private(part))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_two_places_use_what_others_do_not_document(path: Path) -> None:
    assert {*private_names(path)} == ALLOWED.get(str(path.relative_to(ROOT)), set())


def test_private_names_are_found(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "from torch.utils._pytree import tree_map\n"
        "from lightning.pytorch.loops import _FitLoop\n"
        "from .own import _mine\n"
        "trainer._results\n"
        "self._own, row._replace(a=1), super()._kept, torch._foreach_norm([])\n"
        "getattr(optimizer, '_step_supports', False), getattr(self, '_own')\n"
    )
    found = {"_pytree", "_FitLoop", "_results", "_step_supports"}
    assert {*private_names(file)} == found


def test_every_seam_is_in_the_documentation() -> None:
    from lightkeel.fit import lightning_state

    text = (ROOT / "docs" / "lightning.md").read_text()
    missing = [path for path in lightning_state.SEAMS if f"`{path}`" not in text]
    assert missing == []
