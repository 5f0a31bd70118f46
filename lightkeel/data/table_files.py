"""Tables as files, read row by row: CSV, Parquet and npz; what is wrong is named by its place."""

import csv
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from ..errors.checks import suggest

MISSING = {"", "na", "n/a", "nan", "null", "none"}  # in any case, beside what is null in Parquet
LARGEST = float(np.finfo(np.float32).max)
NAMED = (".npz", ".parquet", ".pq")  # files whose columns have names; all others are CSV
CHUNK_ROWS = 4096
Row = Sequence[Any] | str  # its cells: text, or what a Parquet or npz file holds; or why it is none
UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")  # how such a file begins, where it is read as UTF-8
SEPARATORS = ";\t|,"  # that a table may have by mistake


class TableError(ValueError):
    """What is wrong with a table, by file, line and column."""


def open_rows(path: Path, separator: str = ",") -> Iterator[Row]:
    """Read the rows of a file, none of which is kept; ``-``: CSV from standard input.

    The first holds the names of the columns.

    Raises:
        TableError: As the first is read, if it is no table.
        OSError: It cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _read_npz(path)
    if suffix in NAMED:
        return _read_parquet(path)
    return map(itemgetter(1), _scan_csv(path, separator))


def place_of(path: Path, number: int, separator: str) -> str:
    """Say where in a file a row is, counted from 1 below the names: in CSV, its first line."""
    if path.suffix.lower() in NAMED:
        return f"{path}, row {number}"
    line, _ = next(islice(_scan_csv(path, separator), number, None))
    return f"{path}, line {line}"


def _scan_csv(path: Path, separator: str) -> Iterator[tuple[int, Row]]:
    place, width = Path("/dev/stdin" if str(path) == "-" else path), 0
    # Bytes that are no UTF-8 are found where they stand, and harmless in columns that are not read.
    with place.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, f"{error} in line {reader.line_num} (is a quote not closed?)"
                continue
            width = width or len(cells)
            if len(cells) == width and cells:
                yield line, cells
            elif cells:  # else a blank line
                yield line, _uneven(cells, width)


def _uneven(cells: list[str], width: int) -> str:
    lines = 1 + "".join(cells).count("\n")
    quote = f" in {lines} lines (is a quote not closed?)" if lines > 1 else ""
    few = "few" if len(cells) < width else "many"
    return f"it has {len(cells)} columns, too {few}: the first row has {width}{quote}"


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        import polars
    except ModuleNotFoundError as error:
        how = "needs the package polars, which is not installed.\nInstall it: make setup ADD=table"
        raise TableError(f"{path}: {how}") from error
    with path.open("rb") as file:
        try:
            frame = polars.read_parquet(file)
        # Whatever polars runs into in a damaged one; its panics are no exceptions of Python's.
        except (Exception, polars.exceptions.PanicException) as error:  # noqa: BLE001
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise TableError(f"{path}: is no Parquet file ({reason}).") from None
    yield frame.columns
    yield from frame.iter_rows()


def _read_npz(path: Path) -> Iterator[Row]:
    """Read arrays (N,) as columns by their names, and of arrays (N, F) each as NAME[0], NAME[1]."""
    columns: dict[str, np.ndarray[Any, Any]] = {}
    with path.open("rb") as opened:
        try:
            with np.load(opened, allow_pickle=False) as file:
                arrays = {name: np.atleast_1d(file[name]) for name in file.files}
        except Exception as error:  # noqa: BLE001 - whatever numpy runs into in a damaged one
            is_pickled = "allow_pickle" in str(error)
            wrong = "holds pickled objects, which could run code" if is_pickled else str(error)
            raise TableError(f"{path}: is no npz file of arrays ({wrong}).") from None
    for name, array in arrays.items():
        parts = array.reshape(len(array), math.prod(array.shape[1:])).T
        named = [name] if array.ndim == 1 else [f"{name}[{place}]" for place in range(len(parts))]
        columns |= dict(zip(named, parts, strict=True))
    lengths = {name: len(column) for name, column in columns.items()}
    if len({*lengths.values()}) > 1:
        raise TableError(f"{path}: its arrays are of unequal lengths: {lengths}.")
    yield list(columns)
    for first in range(0, max(lengths.values(), default=0), CHUNK_ROWS):
        chunk = slice(first, first + CHUNK_ROWS)
        yield from zip(*(column[chunk].tolist() for column in columns.values()), strict=True)


def read_names(path: Path, rows: Iterator[Row]) -> list[str]:
    """Read the first row of a file: the names of its columns.

    Raises:
        TableError: There is none, or it is no text.
        OSError: The file cannot be read.
    """
    first = next(rows, None)
    if first is None or isinstance(first, str):
        raise TableError(f"{path}: is {f'no CSV ({first})' if first else 'empty'}.")
    names = [str(cell).strip() for cell in first]
    if "".join(names[:1]).startswith(UTF_16):
        raise TableError(f"{path}: is UTF-16. Save it as UTF-8.")
    if odd := next((name for name in names if not is_text(name)), None):
        raise TableError(f"{path}: its column {quoted(odd)} is no UTF-8. Save it as UTF-8.")
    return names


def is_text(cell: str) -> bool:
    """Tell whether the bytes of a cell were UTF-8."""
    return cell.isascii() or not any("\ud800" <= mark <= "\udfff" for mark in cell)


def find_columns(
    path: Path, wanted: Sequence[str], names: Sequence[str], remedy: str = "Set data.separator."
) -> list[int]:
    """Return the places of columns among the names of a file's.

    ``remedy`` is for a file that has another separator.

    Raises:
        TableError: There is none of a name, or several.
    """
    for name in wanted:
        if name not in names:
            mark = next((mark for mark in SEPARATORS if len(names) == 1 and mark in names[0]), None)
            fix = f"Is it separated by {mark!r}? {remedy}" if mark else ""
            raise TableError(f"{path}: has no column `{name}`. {fix or suggest(name, names)}")
        if names.count(name) > 1:
            many = f"has {names.count(name)} columns named `{name}`"
            raise TableError(f"{path}: {many}. Rename or remove all but one.")
    return [names.index(name) for name in wanted]


def number_in(cell: Any, decimal: str = ".") -> float:
    """Read a number; NaN where the cell is missing.

    Raises:
        ValueError: It is no number that is finite in float32, as a table holds it: 1_000 is none,
            which Python would take.
    """
    if cell is None or (isinstance(cell, str) and cell.strip().casefold() in MISSING):
        return math.nan
    try:
        if isinstance(cell, str):
            refused = "_" if decimal == "." else "_."
            number = float("" if {*refused} & {*cell} else cell.replace(decimal, "."))
        else:
            number = float(cell)
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if abs(number) > LARGEST:
        raise ValueError(f"{quoted(cell)} is no finite number")
    return number


def numbers_in(cells: Sequence[Any]) -> np.ndarray[Any, Any] | None:
    """Read the numbers of a column at once, (N,); None where ``number_in`` is to look at each."""
    try:
        if isinstance(cells[0], str) and "_" in "".join(cells):
            return None
        numbers = np.fromiter(map(float, cells), np.float64, len(cells))
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if (np.abs(numbers) <= LARGEST).all() else None


def quoted(cell: Any) -> str:
    """Write a cell for a message, not all of it if it is long."""
    text = cell if isinstance(cell, str) else str(cell)
    return repr(text[:40])
