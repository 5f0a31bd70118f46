"""The names that the parser has, kept so that a typo is answered without importing PyTorch.

They are kept in a file of the user's cache, and count as long as nothing changes that they come
from: the sources of the project and the library, and the packages installed.
"""

import hashlib
import json
import os
import sys
import sysconfig
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ..project import LIBRARY, current
from ..runs.files import read_json
from ..runs.find import expand_home

BEGAN_NS = time.time_ns()
# A folder of packages is written to whenever one is installed, changed or removed.
PACKAGES = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
Class = tuple[str, list[str]]  # its name, and what it is made with


class Known(NamedTuple):
    """What the parser knows.

    Attributes:
        names: Of all options, with dots.
        classes: By their paths, ``model:NAME`` for a short name, ``OPTION:`` for the one that an
            option has where none is given; None: it is not certain.
        listed: Short names to be suggested for a model, data and each callback, and of each class
            what it is.
    """

    names: list[str]
    classes: dict[str, Class | None]
    listed: dict[str, dict[str, str]]


def read() -> Known | None:
    """Return what was known, unless something has changed since."""
    found = read_json(_file())
    then = found.pop("stamps", None)
    return Known(**found) if isinstance(then, dict) and _stamps(then) == then else None


def write(known: Known) -> None:
    """Keep what is known, whole or not at all; where it cannot be written, it is not kept."""
    installed = (*PACKAGES, sysconfig.get_path("stdlib"))
    loaded = [vars(part) for part in [*sys.modules.values()] if isinstance(part, ModuleType)]
    files = {str(part["__file__"]) for part in loaded if part.get("__file__")}
    stamps = _stamps(file for file in files if not file.startswith(installed))
    if any(stamp[0] > BEGAN_NS for path, stamp in stamps.items() if path not in PACKAGES):
        return  # changed since it was imported, perhaps
    file = _file()
    part = file.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(json.dumps({"stamps": stamps, **known._asdict()}), encoding="utf-8")
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


def _file() -> Path:
    whose = f"{current().root}\n{current().package}\n{sys.prefix}\n{sys.version}"
    name = hashlib.sha256(whose.encode()).hexdigest()[:16]
    home = expand_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return home / "lightkeel" / f"{name}.json"


def _stamps(more: Iterable[str]) -> dict[str, Any]:
    """Say when each source was written, and how long it is; of ``more`` files too."""
    folder, found = current().folder, {}
    sources = {folder.with_suffix(".py"), *folder.rglob("*.py"), *LIBRARY.rglob("*.py")}
    for path in {*map(str, sources), *PACKAGES, *more}:
        with suppress(OSError):
            status = Path(path).stat()
            found[path] = [status.st_mtime_ns, status.st_size]
    return found
