"""The columns of a table that are learned from, as numbers; a cell that is none is refused."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors.checks import suggest
from .table_files import (
    CHUNK_ROWS,
    MISSING,
    TableError,
    find_columns,
    is_text,
    number_in,
    numbers_in,
    open_rows,
    place_of,
    quoted,
    read_names,
)

Missing = Literal["error", "mean", "drop"]
MOST_NAMED = 20  # of the classes that are known
Array = np.ndarray[Any, Any]


class CellError(ValueError):
    """What is wrong with a cell, and what to do."""


@dataclass
class TableReader:
    """Reads a target and features, whatever their order in a file.

    Args:
        target: Column of the target.
        features: Columns of features.
        separator: Between cells of CSV.
        decimal: Mark of decimals in CSV.
        missing: Whether a cell may be missing; of a target, only with ``drop``.
        codes: Numbers of the classes by name; None: the target is a number.
        is_learning: Whether classes without a number are given the next, and not refused.
    """

    target: str
    features: Sequence[str]
    separator: str
    decimal: str
    missing: Missing
    codes: dict[str, int] | None = None
    is_learning: bool = False

    def read(self, path: Path) -> Tensor:
        """Read targets and features of all rows, (N, 1 + F) float32; NaN where a cell is missing.

        Raises:
            TableError: The file is no table, lacks a column, or a cell is not what it should be.
            OSError: It cannot be read.
        """
        parts = list(self._read(path))
        if not parts:
            raise TableError(f"{path}: has no rows below the names of its columns.")
        return torch.from_numpy(np.concatenate(parts))

    def _read(self, path: Path) -> Iterator[Array]:
        rows, names = open_rows(path, self.separator), [self.target, *self.features]
        places = find_columns(path, names, read_names(path, rows))
        first = 1
        while chunk := list(islice(rows, CHUNK_ROWS)):
            for number, row in enumerate(chunk, first):
                if isinstance(row, str):
                    raise TableError(f"{place_of(path, number, self.separator)}: {row}.")
            table = np.empty((len(chunk), len(names)), np.float32)
            for column, (name, place) in enumerate(zip(names, places, strict=True)):
                cells = [row[place] for row in chunk]
                table[:, column] = self._column(path, name, cells, first)
            yield table
            first += len(chunk)

    def _column(
        self, path: Path, name: str, cells: Sequence[Any], first: int
    ) -> Array | list[float]:
        is_class = name == self.target and self.codes is not None
        if not is_class and self.decimal == "." and (plain := numbers_in(cells)) is not None:
            return plain
        read, numbers = self._code if is_class else self._number, []
        for number, cell in enumerate(cells, first):
            try:
                numbers.append(read(name, cell))
            except CellError as error:
                where = place_of(path, number, self.separator)
                raise TableError(f"{where}, column `{name}`: {error}") from None
        return numbers

    def _number(self, name: str, cell: Any) -> float:
        try:
            number = number_in(cell, self.decimal)
        except ValueError as error:
            fix = f"Mend it, or leave the column out: data.exclude [{name}]."
            if name == self.target:
                fix = "Mend it; if it is the name of a class, set data.classes to true."
            if isinstance(cell, str) and "," in cell and self.decimal == ".":
                fix = "Write it without; for a decimal comma set data.decimal to ','."
            raise CellError(f"{error}.\n{fix}") from None
        return self._missing(name, cell) if math.isnan(number) else number

    def _code(self, name: str, cell: Any) -> float:
        assert self.codes is not None
        label = "" if cell is None else str(cell).strip()
        if label.casefold() in MISSING:
            return self._missing(name, cell)
        if not is_text(label):
            raise CellError(f"{quoted(label)} is no UTF-8.\nSave the file as UTF-8.")
        if self.is_learning:
            return self.codes.setdefault(label, len(self.codes))
        whole = label.removesuffix(".0")  # as a column of whole numbers is written with a gap in it
        if label not in self.codes and whole.lstrip("-").isdecimal() and whole in self.codes:
            return self.codes[whole]
        if label not in self.codes:
            unknown = f"{quoted(label)} is a class that was not trained on"
            raise CellError(f"{unknown}.\n{suggest(label, list(self.codes)[:MOST_NAMED])}")
        return self.codes[label]

    def _missing(self, name: str, cell: Any) -> float:
        if self.missing == "drop" or (self.missing == "mean" and name != self.target):
            return math.nan
        what = f"{quoted(cell)} is missing" if cell else "is missing"
        rule = "drop" if name == self.target else "mean or drop"
        raise CellError(f"{what}.\nFill it in, or set data.missing to {rule}.")
