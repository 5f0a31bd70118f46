"""Small files of a run, written whole or not at all; and the standard streams."""

import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..errors.bad_input import InputError

MOST_BYTES = 4 * 2**20  # that a small file may have


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON, whole or not at all; NaN and infinity, which it lacks, as null."""
    write_whole(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds all of it or what it held before.

    What a link leads to is written; what is no file, such as a pipe, is written to as it is.
    """
    whole = path.resolve()
    part = whole.with_name(f"{whole.name}.part")
    with naming(path):
        if whole.exists() and not whole.is_file():
            whole.write_text(text, encoding="utf-8", newline="")
            return
        try:
            part.write_text(text, encoding="utf-8", newline="")
            os.replace(part, whole)
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
        InputError: It is closed, or a file on a disk that is full, for example.
    """
    if sys.stdout is None:
        raise InputError("standard output is closed.")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        # Nothing is left to be written when Python ends and flushes again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            text = f"standard output cannot be written ({error.strerror})."
            raise InputError(text) from None


def write_out(text: str) -> None:
    """Write to standard output what its encoding has of a text."""
    with standard_output() as output:
        encoding = output.encoding or "utf-8"
        output.write(text.encode(encoding, "replace").decode(encoding))


def is_terminal() -> bool:
    """Tell whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


@contextmanager
def streams_that_last() -> Iterator[None]:
    """Have what is printed be lost, and not raise, where a stream is closed or its disk is full.

    A character that the encoding does not have is replaced.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1, "replace"), _lasting(sys.stderr, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before


class _Lasting(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _lasting(stream: TextIO | None, number: int, errors: str = "backslashreplace") -> TextIO:
    if stream is None:  # closed: or else the next file that is opened would take its place
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    elif type(stream) is not io.TextIOWrapper or stream.fileno() != number:
        return stream  # a test's own, or a notebook's
    encoding, by_line = (
        ("utf-8", False) if stream is None else (stream.encoding, stream.line_buffering)
    )
    raw = io.BufferedWriter(_Lasting(number, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding, errors, line_buffering=by_line)
