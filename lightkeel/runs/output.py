"""What is printed on the standard streams, whatever they lead to."""

import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors.bad_input import InputError
from ..errors.checks import warn

PIPE_WIDTH = 10**6  # in a pipe or a job's log nothing is cut or broken in two


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Write to standard output, as long as somebody reads it."""
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


@contextmanager
def drawing() -> Iterator[Console]:
    """Draw on standard output, as wide as the terminal or, where it is none, without a limit."""
    with standard_output() as output:
        console = Console(width=None if output.isatty() else PIPE_WIDTH)
        with console.capture() as drawn:
            yield console
    write_out("\n".join(line.rstrip() for line in drawn.get().splitlines()).strip("\n") + "\n")


def print_table(
    title: str,
    rows: Iterable[tuple[str, ...]],
    columns: Sequence[str] = ("", ""),
    paths: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Print a table, the first of whose columns names what is in the others.

    Columns between the first and the last, such as numbers, are never broken; nor are ``paths``,
    each on a line of its own below the table.
    """
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for number, name in enumerate(columns):
        options: dict[str, Any] = {"style": None if number else "bold", "overflow": "fold"}
        table.add_column(name, no_wrap=0 < number < len(columns) - 1, **options)
    for row in rows:
        table.add_row(*row)
    with drawing() as console:
        console.print(table)
        for name, path in paths.items():
            console.print(Text(f"{name}: {path}"), soft_wrap=True)


def format_value(value: float) -> str:
    """Write a metric with all digits that a float32 has."""
    return str(int(value)) if abs(value) < 1e9 and value == int(value) else f"{value:.7g}"


@contextmanager
def tolerated(what: str) -> Iterator[None]:
    """Say in one line that a part has failed that a run can do without, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the results
        reason = next(iter(str(error).splitlines()), "")
        warn(f"{what} failed ({type(error).__name__}: {reason}); nothing else depends on it.")


@contextmanager
def streams_that_last() -> Iterator[None]:
    """Have what is printed be lost, and not raise, where a stream is closed or its disk is full."""
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
    encoding, by_line = "utf-8", False
    if stream is None:  # closed: or else the next file that is opened would take its place
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    elif type(stream) is not io.TextIOWrapper or stream.fileno() != number:
        return stream  # a test's own, or a notebook's
    else:
        encoding, by_line = stream.encoding, stream.line_buffering
    raw = io.BufferedWriter(_Lasting(number, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding, errors, line_buffering=by_line)
