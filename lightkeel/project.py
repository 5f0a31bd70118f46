"""The project that is at work: where its package and configs are, and what it trains by default."""

import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

LIBRARY = Path(__file__).parent


@dataclass(frozen=True)
class Project:
    """A package of models, data and callbacks, and the experiments beside it.

    Classes in ``PACKAGE.models`` and ``PACKAGE.data``, or in a package that is one file, are known
    by short names; ``PACKAGE.callbacks.Callbacks`` is the table of named callbacks, and functions
    of ``PACKAGE.data.augment`` can be named in ``data.augment``. The one made last is at work.

    Args:
        package: Name of the package, or of a module.
        default_config: Experiment that is trained where none is named.
        root: Folder that holds the package and ``configs``; found by the package's name where not
            given.
    """

    package: str
    default_config: str | None = None
    root: Path = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not self.root:
            object.__setattr__(self, "root", _folder_around(self.package))
        self.use()

    @property
    def folder(self) -> Path:
        """Folder of the package."""
        return self.root.joinpath(*self.package.split("."))

    @property
    def configs(self) -> Path:
        """Folder of the experiments."""
        return self.root / "configs"

    def use(self) -> None:
        """Have this one at work."""
        _at_work[:] = [self]

    def command(self, name: str) -> str:
        """Say how a command is started: by the package's module, else as this process was."""
        is_there = self.package and (self.folder / f"{name}.py").is_file()
        return f"{interpreter()} -m {self.package}.{name}" if is_there else started_as()

    def main(self, command: str) -> Callable[..., int]:
        """Return what ``python -m PACKAGE.COMMAND`` calls: ``main(args)``, which gives a status."""
        return partial(import_module(f".commands.{command}", __package__).main, self)


_at_work: list[Project] = []


def current() -> Project:
    """Return the project at work; without any, one of no package in the folder at hand."""
    return _at_work[-1] if _at_work else Project("", root=Path.cwd())


def started_as() -> str:
    """Say how this process was started."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"{interpreter()} {f'-m {spec.name}' if spec else shlex.quote(sys.argv[0])}"


def interpreter() -> str:
    """Write how a shell here starts this Python, which ``make train`` does without its `python`."""
    found, here, folder = shutil.which("python"), Path(sys.executable), Path.cwd()
    if found and Path(found).parent == here.parent:
        return "python"
    return shlex.quote(str(here.relative_to(folder) if here.is_relative_to(folder) else here))


def _folder_around(package: str) -> Path:
    spec = getattr(sys.modules.get(package), "__spec__", None) or find_spec(package)
    if spec is None or not spec.origin:
        return Path.cwd()
    file = Path(spec.origin).absolute()
    return file.parents[package.count(".") + (file.stem == "__init__")]
