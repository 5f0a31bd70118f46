"""Small files of a run, written whole or not at all; and standard output."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from .errors import InputError

MOST_BYTES = 4 * 2**20  # that a small file may have


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON, whole or not at all; NaN and infinity, which it lacks, as null."""
    write_whole(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds all of it or what it held before."""
    part = path.with_suffix(".part")
    try:
        part.write_text(text, newline="")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read_text(path: Path) -> str | None:
    """Read a small file; None where it is none, or cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:  # a pipe would be waited for
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def read_json(path: Path) -> dict[str, Any]:
    """Read a small file that holds a mapping; of any other, none is left."""
    try:
        content = json.loads(read_text(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _finite(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Write to standard output, as long as somebody reads it.

    Raises:
        InputError: It is a file on a disk that is full, for example.
    """
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        # Nothing is left to be written when Python ends and flushes again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            text = f"standard output cannot be written ({error.strerror})."
            raise InputError(text) from None
