"""What a trained model is used on, as it is read: image files, or rows of tables."""

import math
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.table_files import (
    NAMED,
    Row,
    TableError,
    find_columns,
    number_in,
    open_rows,
    quoted,
    read_names,
)
from ..errors.bad_input import InputError
from ..errors.checks import suggest
from .predictor import Predictor


class ReadSample(NamedTuple):
    """A sample that was read, or why it could not be."""

    origin: list[Any]  # of its row: the file and, of a table, the number and what is kept
    value: Tensor | None
    error: str = ""


class Table(NamedTuple):
    """A table with the names of its columns: 1, 2, 3 ... where the file has none.

    Attributes:
        names: Of all columns.
        rows: Its rows.
        first: The first row of the file, the names or not.
        has_names: Whether it is.
    """

    names: list[str]
    rows: Iterator[Row]
    first: list[str]
    has_names: bool


class TableSamples(NamedTuple):
    """Samples of a table, the columns that are copied, and those that are passed over."""

    samples: Iterator[ReadSample]
    kept: list[str]
    passed_over: list[str]


def read_images(predictor: Predictor, files: Sequence[Path], ahead: int) -> Iterator[ReadSample]:
    """Read images in threads, in their order, no more than ``ahead`` before they are asked for."""

    def read(file: Path) -> ReadSample:
        try:
            return ReadSample([shown(file)], predictor.read(file))
        except ValueError as error:
            return ReadSample([shown(file)], None, str(error))

    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(read, file) for file in files[:ahead]]
        for number in range(len(files)):
            yield waiting.pop(0).result()
            if number + ahead < len(files):
                waiting.append(pool.submit(read, files[number + ahead]))


def read_table(path: Path, predictor: Predictor, options: Namespace) -> TableSamples:
    """Check a table, and read its rows, numbered from 1.

    Features are ``options.columns``, else those of training by name, else all columns.
    """
    if path.is_dir():
        model = type(predictor.model).__name__
        raise InputError(f"INPUT {path}: is a folder, and {model} takes CSV files of numbers.")
    data = predictor.data
    try:
        table = open_table(path, data, options.header)
        places = choose_columns(path, table, predictor, options.columns)
    except TableError as error:
        raise InputError(f"INPUT {error}") from error.__cause__
    except OSError as error:
        raise InputError(f"INPUT {path}: cannot be read ({error.strerror}).") from None
    used = {place for place, _ in places}
    others = [name for place, name in enumerate(table.names) if place not in used]
    kept = others if options.keep == ["all"] else options.keep or []
    check_names(path, table, "keep", kept)
    read = partial(read_row, places, [table.names.index(name) for name in kept], data)
    samples = (read([shown(path), number], row) for number, row in enumerate(table.rows, 1))
    unsaid = [name for name in others if name not in kept and options.columns is None]
    return TableSamples(samples, kept, unsaid)


def open_table(path: Path, data: Any, header: str | None) -> Table:
    """Open a table, and find out whether its first row names its columns."""
    rows = open_rows(path, getattr(data, "separator", ","))  # once: a pipe cannot be read again
    first = read_names(path, rows)
    has_names = header == "yes" or path.suffix.lower() in NAMED
    if not has_names and header != "no":
        trained = getattr(data, "feature_names", ())
        has_names = not any(is_number(text) for text in first)
        has_names |= bool(trained) and {*trained} <= {*first}
    if has_names:
        return Table(first, rows, first, True)
    numbered = [str(number) for number in range(1, len(first) + 1)]
    return Table(numbered, chain([first], rows), first, False)


def choose_columns(
    path: Path, table: Table, predictor: Predictor, chosen: list[str] | None
) -> list[tuple[int, str]]:
    """Return the places of the features, in their order, and what to call each in an error."""
    trained = getattr(predictor.data, "feature_names", ())
    if trained and table.has_names and (chosen is None or sorted(chosen) == sorted(trained)):
        remedy = f"Save it with `{getattr(predictor.data, 'separator', ',')}`."
        places = find_columns(path, trained, table.names, remedy)
        return [(place, f"column `{table.names[place]}`: ") for place in places]
    check_names(path, table, "columns", chosen or [])
    everything = range(len(table.names))  # names may be there twice
    places = [table.names.index(name) for name in chosen] if chosen else [*everything]
    if len(places) != (wanted := predictor.num_features):
        mark = next((mark for mark in ";\t|" if any(mark in text for text in table.first)), None)
        fix = f"Separate them by `,`, not by {mark!r}." if mark else "Choose by --columns."
        has = f"{len(places)} columns, but {type(predictor.model).__name__} takes {wanted}"
        raise InputError(f"INPUT {path}: has {has}. {fix}")
    return [(place, "") for place in places]


def check_names(path: Path, table: Table, option: str, names: Sequence[str]) -> None:
    """Raise ``InputError`` unless a table has one column of each name."""
    for name in names:
        if (count := table.names.count(name)) != 1:
            hint = suggest(name, table.names, True)
            if not table.has_names and name in table.first:
                hint = "Its first row is taken for values: give --header yes."
            raise InputError(f"--{option} {name}: {path} has {count or 'none'}. {hint}")


def is_number(text: str) -> bool:
    """Tell whether a cell of the first row is no name, but a value."""
    try:
        return "_" not in text and float(text) is not None
    except ValueError:
        return False


def read_row(
    places: Sequence[tuple[int, str]],
    copied: Sequence[int],
    data: Any,
    origin: list[Any],
    row: Row,
) -> ReadSample:
    """Read the numbers at ``places`` of a row, or say what is wrong with it."""
    if isinstance(row, str):
        return ReadSample(origin, None, row)
    origin += [as_written(row[place]) for place in copied]
    decimal, fills = getattr(data, "decimal", "."), getattr(data, "missing", "error") == "mean"
    numbers = []
    for place, label in places:
        cell = row[place]
        try:
            numbers.append(number_in(cell, decimal))
        except ValueError as error:
            return ReadSample(origin, None, f"{label}{error}")
        if math.isnan(numbers[-1]) and not fills:
            text = f"{quoted(cell)} " if cell else ""
            return ReadSample(origin, None, f"{label}{text}is missing")
    return ReadSample(origin, torch.tensor(numbers))


def as_written(cell: Any) -> Any:
    """Return a cell as CSV and JSON can hold it."""
    return cell if cell is None or isinstance(cell, (int, float)) else shown(str(cell))


def shown(path: Path | str) -> str:
    """Write a path or text; what is no Unicode cannot be written as it is."""
    return str(path).encode(errors="backslashreplace").decode()
