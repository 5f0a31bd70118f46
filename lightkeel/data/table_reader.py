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
    Row,
    TableError,
    find_columns,
    is_text,
    number_in,
    numbers_in,
    open_rows,
    quoted,
    read_names,
)

Missing = Literal["error", "mean", "drop"]
Array = np.ndarray[Any, Any]


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
        rows = open_rows(path, self.separator)
        names = read_names(path, rows)
        target, *features = find_columns(path, [self.target, *self.features], names)
        while chunk := list(islice(rows, CHUNK_ROWS)):
            if odd := next((row for row in chunk if row.error), None):
                raise TableError(f"{path}, line {odd.line}: {odd.error}.")
            table = np.empty((len(chunk), 1 + len(features)), np.float32)
            table[:, 1:] = self._numbers(path, chunk, self.features, features)
            if self.codes is None:
                table[:, :1] = self._numbers(path, chunk, [self.target], [target])
            else:
                table[:, 0] = [self._code(path, row, row.cells[target]) for row in chunk]
            yield table

    def _numbers(
        self, path: Path, rows: Sequence[Row], names: Sequence[str], places: Sequence[int]
    ) -> Array | list[list[float]]:
        plain = numbers_in(rows, places) if self.decimal == "." else None
        if plain is not None:
            return plain
        named = list(zip(names, places, strict=True))
        return [[self._number(path, row, n, row.cells[p]) for n, p in named] for row in rows]

    def _number(self, path: Path, row: Row, name: str, cell: Any) -> float:
        try:
            number = number_in(cell, self.decimal)
        except ValueError as error:
            fix = f"Mend it, or leave the column out: data.exclude [{name}]."
            if name == self.target:
                fix = "Mend it; if it is the name of a class, set data.classes to true."
            if isinstance(cell, str) and "," in cell and self.decimal == ".":
                fix = "Write it without; for a decimal comma set data.decimal to ','."
            raise refusal(path, row, name, str(error), fix) from None
        return self._missing(path, row, name, cell) if math.isnan(number) else number

    def _code(self, path: Path, row: Row, cell: Any) -> float:
        assert self.codes is not None
        name = "" if cell is None else str(cell).strip()
        if not name:
            return self._missing(path, row, self.target, cell)
        if not is_text(name):
            wrong, fix = f"{quoted(name)} is no UTF-8", "Save the file as UTF-8."
            raise refusal(path, row, self.target, wrong, fix)
        if self.is_learning:
            return self.codes.setdefault(name, len(self.codes))
        if name not in self.codes:
            unknown = f"{quoted(name)} is a class that was not trained on"
            raise refusal(path, row, self.target, unknown, suggest(name, self.codes))
        return self.codes[name]

    def _missing(self, path: Path, row: Row, name: str, cell: Any) -> float:
        if self.missing == "drop" or (self.missing == "mean" and name != self.target):
            return math.nan
        what = f"{quoted(cell)} is missing" if cell else "is missing"
        rule = "drop" if name == self.target else "mean or drop"
        raise refusal(path, row, name, what, f"Fill it in, or set data.missing to {rule}.")


def refusal(path: Path, row: Row, name: str, wrong: str, fix: str) -> TableError:
    """Say what is wrong with a cell."""
    return TableError(f"{path}, line {row.line}, column `{name}`: {wrong}.\n{fix}")
