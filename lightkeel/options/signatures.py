"""What a class can be made with, read from source text: nothing is imported for it."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ..project import LIBRARY, current


class Class(NamedTuple):
    """A class as it is written in a file."""

    file: Path
    node: ast.ClassDef


def parameters(cls: Class) -> set[str] | None:
    """Name what a class can be made with, also through ``**kwargs``; None where that is unsure."""
    file, node = cls
    makers = [part for part in node.body if binds(part, "__init__") or binds(part, "__new__")]
    if node.decorator_list or node.keywords or len(makers) > 1:
        return None
    base = find_class(file, ast.unparse(node.bases[0]), node) if len(node.bases) == 1 else None
    inherited = parameters(base) if base else None
    if not makers:
        return inherited if node.bases else set()
    init = makers[0]
    if not isinstance(init, ast.FunctionDef) or init.name == "__new__" or init.args.vararg:
        return None
    # This one, of Lightning's Trainer, keeps the signature.
    if {ast.unparse(name) for name in init.decorator_list} - {"_defaults_from_env_vars"}:
        return None
    takes = init.args
    own = {arg.arg for arg in [*takes.posonlyargs, *takes.args, *takes.kwonlyargs][1:]}
    if not takes.kwarg:
        return own
    uses = [n for n in ast.walk(init) if isinstance(n, ast.Name) and n.id == takes.kwarg.arg]
    for call in (n for n in ast.walk(init) if isinstance(n, ast.Call)):
        passed = {keyword.arg: keyword.value for keyword in call.keywords}
        is_handed_on = len(uses) == 1 and passed.get(None) is uses[0] and not call.args
        if is_handed_on and ast.unparse(call.func) == "super().__init__" and inherited is not None:
            return own | inherited - passed.keys()
    return None


def find_class(file: Path, name: str, before: ast.stmt | None = None) -> Class | None:
    """Find a class that a module has by a name, defined or imported; None where that is unsure."""
    body = [
        part
        for node in parse(file).body
        for part in (
            node.body
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            else [node]
        )
    ]
    for node in reversed(body[: body.index(before)] if before else body):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Class(file, node)
        if isinstance(node, ast.ImportFrom):
            names = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in names:
                source = module_file(node.module or "", node.level, file)
                return find_class(source, names[name]) if source else None
        if binds(node, name) or binds(node, "*"):
            return None
    return None


def binds(node: ast.stmt, name: str) -> bool:
    """Tell whether a statement may give a value to a name."""
    is_definition = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    for part in [node] if is_definition else ast.walk(node):
        if isinstance(part, ast.Name) and part.id == name and isinstance(part.ctx, ast.Store):
            return True
        if name in (getattr(part, "name", None), getattr(part, "asname", None)):
            return True
    return False


def module_file(name: str, level: int = 0, file: Path | None = None) -> Path | None:
    """Find the file of a module of this project or of Lightning.

    Args:
        name: With dots.
        level: Dots before it, in an import in ``file``.
        file: Where it is named.
    """
    top, *parts = name.split(".")
    if level:
        assert file is not None
        home, parts = file.parents[level - 1], [top, *parts] if top else []
    elif top in (current().package, LIBRARY.name):
        home = current().folder if top == current().package else LIBRARY
    elif top == "lightning" and (spec := find_spec(top)) and spec.origin:
        home = Path(spec.origin).parent
    else:
        return None
    place = home.joinpath(*parts)
    files = [place / "__init__.py", *([place.with_suffix(".py")] if parts else [])]
    return next((path for path in files if path.is_file()), None)


@cache
def parse(file: Path) -> ast.Module:
    """Parse a file; one that cannot be read has nothing in it."""
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], [])
