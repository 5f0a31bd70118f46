"""Predictions of a trained model, one row a sample, written as they come."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..errors.bad_input import InputError
from ..errors.checks import suggest, warn
from ..options.explain import explained, too_large
from ..runs.find import Run
from ..runs.output import standard_output
from .predictor import Predictor, load_run


class Settings(NamedTuple):
    """How predictions are made and written.

    ``format`` is ``csv`` or ``jsonl``; ``top_k`` counts the likeliest classes of a row; ``columns``
    are those of a CSV file that hold the features, all where not given; ``header`` tells whether
    its first row names them: ``yes``, ``no``, or ``auto``, if no number is in it.
    """

    format: str
    top_k: int = 1
    columns: list[str] | None = None
    batch_size: int = 64
    device: torch.device = torch.device("cpu")
    header: str | None = None


class Sample(NamedTuple):
    """A sample that was read, or why it could not be.

    ``origin`` is what its row begins with: the file, and of a table the row.
    """

    origin: list[str | int]
    value: Tensor | None
    error: str = ""


class Counts:
    """How many rows have been written, and how many samples could not be read."""

    rows = 0
    errors = 0


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
    files = find_images(predictor, inputs) if predictor.takes_images else inputs
    if output is not None and output.resolve() in [file.resolve() for file in files]:
        raise InputError(f"--output {output}: is an input. Choose another file.")
    samples: Iterable[Sample]
    if predictor.takes_images:
        for name in ("columns", "header"):
            if getattr(settings, name) is not None:
                raise InputError(f"--{name}: is for CSV files, and the model takes images.")
        samples, total = read_images(predictor, files, settings.batch_size), len(files)
    else:
        tables = [Table(path, predictor, settings.columns, settings.header) for path in files]
        samples, total = (sample for table in tables for sample in table.read()), None
    if sys.stderr.isatty():
        console = Console(stderr=True)
        samples = track(samples, "predicting", total, console=console, transient=True)
    counts = Counts()
    try:
        predictor.to(settings.device)
        with writing(output) as file:
            write_rows(predictor, samples, file, settings, counts)
    except torch.OutOfMemoryError as error:
        size, remedy = settings.batch_size, "Use a smaller --batch_size, or --device cpu."
        raise InputError(too_large(f"--batch_size: {size}", error, remedy)) from error
    except KeyboardInterrupt:
        print(f"stopped after {counts.rows} rows, which are written", file=sys.stderr)
        raise
    unread = f"{counts.errors} of {counts.rows} could not be read: see `error` in their rows."
    if counts.errors and counts.errors == counts.rows:
        raise InputError(f"INPUT: {unread}")
    if counts.errors:
        warn(unread)


def find_device(name: str) -> torch.device:
    """Find the device that ``--device`` names; ``auto``: the first GPU of CUDA, or the CPU.

    Raises:
        InputError: There is none of that name.
    """
    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    names += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return torch.device("cuda:0" if "cuda:0" in names else "cpu")
    chosen = {"cuda": "cuda:0"}.get(name, name)
    if chosen not in names:
        raise InputError(f"--device {name}: there is none here. {suggest(name, names, True)}")
    return torch.device(chosen)


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
    """A CSV file whose rows are samples, with names in the first row or without.

    Args:
        path: The file, or ``-`` for standard input.
        predictor: Whose samples they are.
        columns: Names of those columns that are features, in order; all where not given. Without
            names in the file they are 1, 2, 3 ...
        header: See ``Settings``.

    Raises:
        InputError: It is no such file.
    """

    def __init__(
        self,
        path: Path,
        predictor: Predictor,
        columns: list[str] | None,
        header: str | None = None,
    ) -> None:
        self.path = path
        model, wanted = type(predictor.model).__name__, predictor.num_features
        if path.is_dir():
            raise InputError(f"INPUT {path}: is a folder, and {model} takes CSV files of numbers.")
        self._rows = self._open()  # once: a pipe cannot be read again
        self._first = next(self._rows, None)
        if self._first is None:
            raise InputError(f"INPUT {path}: is empty.")
        first = self._first
        self.width = len(first)
        guessed = not any(is_number(text) for text in first)
        self.has_names = guessed if header in (None, "auto") else header == "yes"
        names = first if self.has_names else [str(number + 1) for number in range(len(first))]
        names = [name.strip() for name in names]
        for name in columns or []:
            if names.count(name) != 1:
                has = f"{path} has {names.count(name) or 'none'}"
                hint = suggest(name, names, True)
                if not self.has_names and name in (text.strip() for text in first):
                    hint = "Its first row is taken for values: give --header yes."
                raise InputError(f"--columns {name}: {has}. {hint}")
        places = [names.index(name) for name in columns] if columns else range(len(names))
        self.places = list(places)
        if len(self.places) != wanted:
            mark = next((mark for mark in ";\t|" if any(mark in text for text in first)), None)
            fix = f"Separate them by `,`, not by {mark!r}." if mark else "Choose by --columns."
            columns_of = f"{len(self.places)} columns, but {model} takes {wanted}"
            raise InputError(f"INPUT {path}: has {columns_of}. {fix}")

    def read(self) -> Iterator[Sample]:
        """Read the rows, numbered from 1."""
        assert self._first is not None
        rows = self._rows if self.has_names else chain([self._first], self._rows)
        for number, row in enumerate(rows, 1):
            yield self._sample([shown(self.path), number], row)

    def _sample(self, origin: list[str | int], row: list[str]) -> Sample:
        if len(row) != self.width:
            lines = 1 + sum(text.count("\n") for text in row)
            quote = f" in {lines} lines: is a quote not closed?" if lines > 1 else ""
            few = "few" if len(row) < self.width else "many"
            what = f"it has {len(row)} columns, too {few}: the first row has {self.width}"
            return Sample(origin, None, f"{what}{quote}")
        texts = [row[place] for place in self.places]
        for text in texts:
            if not is_number(text) or not abs(float(text)) <= torch.finfo().max:
                return Sample(origin, None, f"{text[:40]!r} is no finite number")
        return Sample(origin, torch.tensor([float(text) for text in texts]))

    def _open(self) -> Iterator[list[str]]:
        """Read rows that are not blank; of one that is no CSV, what is wrong with it."""
        try:
            path = "/dev/stdin" if str(self.path) == "-" else self.path
            with Path(path).open(newline="", encoding="utf-8-sig", errors="replace") as file:
                reader = csv.reader(file)
                while True:
                    try:
                        row = next(reader, None)
                    except csv.Error as error:
                        row = [str(error)] * getattr(self, "width", 1)
                    if row is None:
                        return
                    if row:
                        yield row
        except OSError as error:
            raise InputError(f"INPUT {self.path}: cannot be read ({error.strerror}).") from None


def is_number(text: str) -> bool:
    """Tell whether a text is a number, as a CSV file holds it."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python would read 1_000


def write_rows(
    predictor: Predictor,
    samples: Iterable[Sample],
    file: TextIO,
    settings: Settings,
    counts: Counts,
) -> None:
    """Write a row for each sample, and count them."""
    samples, is_csv = iter(samples), settings.format == "csv"
    columns = column_names(predictor, settings.top_k)
    writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
    if is_csv:
        writer.writeheader()
    while batch := list(islice(samples, settings.batch_size)):
        read = [sample.value for sample in batch if sample.value is not None]
        results = iter(run_model(predictor, read, settings.top_k))
        for sample in batch:
            found = [] if sample.value is None else next(results)
            error = sample.error or ("" if found else "the model gives NaN or infinity for it")
            row = dict(zip(columns, [*sample.origin, *found], strict=False))
            row |= {"error": error} if error or is_csv else {}
            if is_csv:
                writer.writerow(row)
            else:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            counts.errors += bool(error)
        file.flush()
        counts.rows += len(batch)


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
    """Predict for a batch: of each sample labels and probabilities, or values.

    A sample has none where an output is NaN or infinite.
    """
    if not samples:
        return []
    outputs = predictor(torch.stack(list(samples)).to(predictor.device)).cpu()
    outputs = outputs.reshape(len(samples), -1)
    if (names := predictor.class_names) is None:
        rows = [[rounded(value) for value in row] for row in outputs.tolist()]
    else:
        found = outputs.topk(top_k)
        rows = [
            [part for p, label in zip(*row, strict=True) for part in (names[label], rounded(p))]
            for row in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]
    finite = outputs.isfinite().all(1).tolist()
    return [row if is_finite else [] for row, is_finite in zip(rows, finite, strict=True)]


def shown(path: Path) -> str:
    """Write a path; a name that is no Unicode cannot be written as it is."""
    return str(path).encode(errors="backslashreplace").decode()


def rounded(value: float) -> float:
    """Leave out the digits that a float32 does not have."""
    return float(f"{value:.7g}")


@contextmanager
def writing(path: Path | None) -> Iterator[TextIO]:
    """Open a file, or standard output.

    Raises:
        InputError: It cannot be written.
    """
    if path is None:
        with standard_output() as output:
            yield output
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise InputError(f"--output {path}: cannot be written ({error.strerror}).") from None
