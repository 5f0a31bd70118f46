"""Small files of a run: written whole or not at all, and read however damaged they are."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST_BYTES = 4 * 2**20  # that a small file may have


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON, whole or not at all; NaN and infinity, which it lacks, as null."""
    write_whole(path, to_json(content))


def to_json(content: Mapping[str, Any]) -> str:
    """Turn ``content`` into JSON, with null for NaN and infinity."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def write_whole(path: Path, text: str) -> None:
    """Write ``text``, all or nothing, also to where a link leads; to a pipe as it is."""
    with naming(path):
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8", newline="")
        else:
            replace(path.resolve(), text.encode())


def replace(path: Path, content: bytes | memoryview, on_disk: bool = False) -> None:
    """Write a file aside and rename it; ``on_disk`` has both survive a loss of power."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            if on_disk:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
        if on_disk:  # the folder's list of names
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an ``OSError`` say which file it is about; of a full disk it does not by itself."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_text(path: Path) -> str:
    """Read a small file; nothing where it is none (a pipe would be waited for), or no text."""
    try:
        is_small = path.is_file() and path.stat().st_size <= MOST_BYTES
        return path.read_text(encoding="utf-8") if is_small else ""
    except (OSError, UnicodeDecodeError):
        return ""


def read_json(path: Path) -> dict[str, Any]:
    """Read a small file that holds a mapping; of any other, nothing is left."""
    try:
        content = json.loads(read_text(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
