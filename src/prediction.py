"""Predictions of a trained model, one row a sample, written as they come."""

import csv
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from .checks import suggest
from .errors import InputError
from .explain import explained
from .find import Run
from .predictor import Predictor, load_run


class Settings(NamedTuple):
    """How predictions are made and written.

    ``format`` is ``csv`` or ``jsonl``; ``top_k`` counts the likeliest classes of a row; ``columns``
    are those of a CSV file that hold the features, all where not given.
    """

    format: str
    top_k: int = 1
    columns: list[str] | None = None
    batch_size: int = 64


class Sample(NamedTuple):
    """A sample that was read, or why it could not be.

    ``origin`` is what its row begins with: the file, and of a table the row.
    """

    origin: list[str | int]
    value: Tensor | None
    error: str = ""


@explained()
def predict(
    run: Run,
    configs: Sequence[str],
    inputs: Sequence[Path],
    output: Path | None,
    settings: Settings,
) -> None:
    """Write what the model of a run predicts for files, to a file or to standard output."""
    predictor = load_run(run, configs)
    check_top_k(predictor, settings.top_k)
    samples: Iterable[Sample]
    if predictor.takes_images:
        files = find_images(predictor, inputs)
        samples, total = read_images(predictor, files, settings.batch_size), len(files)
    else:
        tables = [Table(path, predictor, settings.columns) for path in inputs]
        samples, total = (sample for table in tables for sample in table.read()), None
    if sys.stderr.isatty():
        console = Console(stderr=True)
        samples = track(samples, "predicting", total, console=console, transient=True)
    num_rows = num_errors = 0
    predictor.to("cuda" if torch.cuda.is_available() else "cpu")
    with writing(output) as file:
        num_rows, num_errors = write_rows(predictor, samples, file, settings)
    if num_errors:
        text = f"{num_errors} of {num_rows} could not be read: see `error` in their rows."
        print(f"warning: {text}", file=sys.stderr, flush=True)


def check_top_k(predictor: Predictor, top_k: int) -> None:
    """Raise ``InputError`` where there are not as many classes."""
    if top_k > len(predictor.class_names or [""]):
        has = f"{len(predictor.class_names)}" if predictor.class_names else "none"
        raise InputError(f"--top_k {top_k}: is more than the model has classes, {has}.")


def find_images(predictor: Predictor, inputs: Sequence[Path]) -> list[Path]:
    """List the image files that are meant by files and folders.

    Raises:
        InputError: A folder holds none.
    """
    files: list[Path] = []
    for path in inputs:
        found = predictor.data.find_images(path) if path.is_dir() else [path]
        if not found:
            raise InputError(f"INPUT {path}: holds no images.")
        files += found
    return files


def read_images(predictor: Predictor, files: Sequence[Path], ahead: int) -> Iterator[Sample]:
    """Read images in threads, in their order, no more than ``ahead`` before they are asked for."""

    def read(file: Path) -> Sample:
        try:
            return Sample([shown(file)], predictor.read(file))
        except ValueError as error:
            return Sample([shown(file)], None, str(error))

    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(read, file) for file in files[:ahead]]
        for number in range(len(files)):
            yield waiting.pop(0).result()
            if number + ahead < len(files):
                waiting.append(pool.submit(read, files[number + ahead]))


class Table:
    """A CSV file whose rows are samples, with names in the first line or without.

    Args:
        path: The file.
        predictor: Whose samples they are.
        columns: Names of those columns that are features, in order; all where not given.

    Raises:
        InputError: It is no such file.
    """

    def __init__(self, path: Path, predictor: Predictor, columns: list[str] | None) -> None:
        self.path = path
        model = type(predictor.model).__name__
        if path.is_dir() or predictor.num_features is None:
            raise InputError(f"INPUT {path}: {model} does not take it. Give a CSV file of numbers.")
        with self._open() as file:
            first = next(self._rows(csv.reader(file)), [])
        self.has_names = any(isinstance(read_number(text), str) for text in first)
        known = first if self.has_names else [str(number + 1) for number in range(len(first))]
        for name in columns or []:
            if name not in known:
                raise InputError(f"--columns {name}: {path} has none. {suggest(name, known, True)}")
        self.places = [known.index(name) for name in columns or known]
        if len(self.places) != predictor.num_features:
            raise InputError(
                f"INPUT {path}: has {len(self.places)} columns, but {model} takes "
                f"{predictor.num_features}. Choose them by --columns."
            )

    def read(self) -> Iterator[Sample]:
        """Read the rows, numbered from 1."""
        with self._open() as file:
            for number, row in enumerate(self._rows(csv.reader(file)), 1 - self.has_names):
                if number:
                    yield self._sample([shown(self.path), number], row)

    def _sample(self, origin: list[str | int], row: list[str]) -> Sample:
        if len(row) <= max(self.places):
            return Sample(origin, None, f"it has {len(row)} columns, too few")
        values = [read_number(row[place]) for place in self.places]
        for value in values:
            if isinstance(value, str):
                return Sample(origin, None, f"{value[:40]!r} is no finite number")
        return Sample(origin, torch.tensor(values))

    def _open(self) -> TextIO:
        try:
            return self.path.open(newline="", encoding="utf-8-sig", errors="replace")
        except OSError as error:
            raise InputError(f"INPUT {self.path}: cannot be read ({error.strerror}).") from None

    def _rows(self, reader: Iterator[list[str]]) -> Iterator[list[str]]:
        """Read rows that are not blank; one that is no CSV is given as a text that is no number."""
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                row = [str(error)] * (1 + max(getattr(self, "places", [0])))
            if row:
                yield row


def read_number(text: str) -> float | str:
    """Read a finite number, or give back the text that is none."""
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) and abs(value) < torch.finfo().max else text


def write_rows(
    predictor: Predictor, samples: Iterable[Sample], file: TextIO, settings: Settings
) -> tuple[int, int]:
    """Write a row for each sample; count them, and those that could not be read."""
    samples, is_csv = iter(samples), settings.format == "csv"
    columns = column_names(predictor, settings.top_k)
    writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
    num_rows = num_errors = 0
    if is_csv:
        writer.writeheader()
    while batch := list(islice(samples, settings.batch_size)):
        read = [sample.value for sample in batch if sample.value is not None]
        results = iter(run_model(predictor, read, settings.top_k))
        for sample in batch:
            found = [] if sample.value is None else next(results)
            row = dict(zip(columns, [*sample.origin, *found], strict=False))
            row |= {"error": sample.error} if sample.error or is_csv else {}
            if is_csv:
                writer.writerow(row)
            else:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            num_errors += bool(sample.error)
        num_rows += len(batch)
        file.flush()
    return num_rows, num_errors


def column_names(predictor: Predictor, top_k: int) -> list[str]:
    """Name the columns of a row: which sample it is of, what was predicted, what is wrong."""
    origin = ["file"] if predictor.takes_images else ["file", "row"]
    if predictor.class_names is not None:
        places = [""] + [f"_{place}" for place in range(2, top_k + 1)]
        return [*origin, *(f"{n}{p}" for p in places for n in ("label", "probability")), "error"]
    samples = predictor.random_samples(1).to(predictor.device)
    outputs = predictor(samples).reshape(1, -1)
    numbers = [""] if outputs.shape[1] == 1 else [f"_{n + 1}" for n in range(outputs.shape[1])]
    return [*origin, *(f"prediction{number}" for number in numbers), "error"]


def run_model(predictor: Predictor, samples: Sequence[Tensor], top_k: int) -> list[list[Any]]:
    """Predict for a batch: of each sample labels and probabilities, or values."""
    if not samples:
        return []
    outputs = predictor(torch.stack(list(samples)).to(predictor.device)).cpu()
    if predictor.class_names is None:
        return [[rounded(v) for v in row] for row in outputs.reshape(len(samples), -1).tolist()]
    found = outputs.topk(top_k)
    names = predictor.class_names
    return [
        [part for p, label in zip(*row, strict=True) for part in (names[label], rounded(p))]
        for row in zip(found.values.tolist(), found.indices.tolist(), strict=True)
    ]


def shown(path: Path) -> str:
    """Write a path; a name that is no Unicode cannot be written as it is."""
    return str(path).encode(errors="backslashreplace").decode()


def rounded(value: float) -> float:
    """Leave out the digits that a float32 does not have."""
    return float(f"{value:.7g}")


@contextmanager
def writing(path: Path | None) -> Iterator[TextIO]:
    """Open a file, or standard output, whose reader may go away."""
    if path is not None:
        try:
            file = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise InputError(f"--output {path}: cannot be written ({error.strerror}).") from None
        with file:
            yield file
        return
    try:
        yield sys.stdout
    except BrokenPipeError:  # nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
