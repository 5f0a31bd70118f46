"""Predictions of a trained model, one row a sample, written as they come."""

import csv
import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..errors.bad_input import InputError
from ..errors.checks import suggest, warn
from ..errors.explain import explained, too_large
from ..runs.find import Run
from ..runs.output import standard_output
from .predictor import Predictor, load_run


class ReadSample(NamedTuple):
    """A sample that was read, or why it could not be."""

    origin: list[str | int]  # what its row begins with: the file, and of a table the row
    value: Tensor | None
    error: str = ""


@explained()
def predict(run: Run, options: Namespace) -> None:
    """Write what the model of a run predicts for files, by the options of the command."""
    device, output = find_device(options.device), options.output
    predictor = load_run(run, options.config)
    names = predictor.class_names
    if options.top_k > len(names or [""]):
        has = len(names) if names else "none"
        raise InputError(f"--top_k {options.top_k}: is more than the model has classes, {has}.")
    images = predictor.takes_images
    if not images and predictor.num_features is None:
        what = f"samples of {type(predictor.data).__name__} are made by its Dataset, not of files"
        raise InputError(f"RUN: {what}. Use lightkeel.load(RUN) in Python.")
    files: list[Path] = []
    for path in options.inputs:
        found = predictor.data.find_images(path) if images and path.is_dir() else [path]
        if not found:
            raise InputError(f"INPUT {path}: holds no images.")
        files += found
    if output is not None and output.resolve() in [file.resolve() for file in files]:
        raise InputError(f"--output {output}: is an input. Choose another file.")
    samples: Iterable[ReadSample]
    if images:
        for name in ("columns", "header"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name}: is for CSV files, and the model takes images.")
        samples, total = read_images(predictor, files, options.batch_size), len(files)
    else:
        tables = [read_table(path, predictor, options.columns, options.header) for path in files]
        samples, total = chain(*tables), None
    if sys.stderr.isatty():
        console = Console(stderr=True)
        samples = track(samples, "predicting", total, console=console, transient=True)
    counts: Counter[str] = Counter()
    try:
        predictor.to(device)
        opened = None if output is None else output.open("w", encoding="utf-8", newline="")
        with opened or standard_output() as file:
            write_rows(predictor, samples, file, options, counts)
    except torch.OutOfMemoryError as error:
        size, remedy = options.batch_size, "Use a smaller --batch_size, or --device cpu."
        raise InputError(too_large(f"--batch_size: {size}", error, remedy)) from error
    except OSError as error:
        if output is None:
            raise
        raise InputError(f"--output {output}: cannot be written ({error.strerror}).") from None
    except KeyboardInterrupt:
        print(f"stopped after {counts['rows']} rows, which are written", file=sys.stderr)
        raise
    share = f"{counts['errors']} of {counts['rows']}"
    unread = f"{share} could not be read: see `error` in their rows."
    if counts["errors"] and counts["errors"] == counts["rows"]:
        raise InputError(f"INPUT: {unread}")
    if counts["errors"]:
        warn(unread)


def find_device(name: str) -> torch.device:
    """Find the device that ``--device`` names; ``auto``: the first GPU of CUDA, or the CPU."""
    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    names += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return torch.device("cuda:0" if "cuda:0" in names else "cpu")
    chosen = {"cuda": "cuda:0"}.get(name, name)
    if chosen not in names:
        raise InputError(f"--device {name}: there is none here. {suggest(name, names, True)}")
    return torch.device(chosen)


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


def read_table(
    path: Path, predictor: Predictor, columns: list[str] | None, header: str | None
) -> Iterator[ReadSample]:
    """Check a CSV file, and read its rows, numbered from 1.

    Of those ``columns`` are features, or all; without names in the file they are 1, 2, 3 ...
    """
    model, wanted = type(predictor.model).__name__, predictor.num_features
    if path.is_dir():
        raise InputError(f"INPUT {path}: is a folder, and {model} takes CSV files of numbers.")
    rows = open_table(path)  # once: a pipe cannot be read again
    first = next(rows, None)
    if not isinstance(first, list):
        raise InputError(f"INPUT {path}: is {f'no CSV ({first})' if first else 'empty'}.")
    guessed = all(number_in(text) is None for text in first)
    has_names = guessed if header in (None, "auto") else header == "yes"
    texts = [text.strip() for text in first]
    names = texts if has_names else [str(number + 1) for number in range(len(first))]
    for name in columns or []:
        if (count := names.count(name)) != 1:
            hint = suggest(name, names, True)
            if not has_names and name in texts:
                hint = "Its first row is taken for values: give --header yes."
            raise InputError(f"--columns {name}: {path} has {count or 'none'}. {hint}")
    places = [names.index(name) for name in columns] if columns else list(range(len(first)))
    if len(places) != wanted:
        mark = next((mark for mark in ";\t|" if any(mark in text for text in first)), None)
        fix = f"Separate them by `,`, not by {mark!r}." if mark else "Choose by --columns."
        has = f"{len(places)} columns, but {model} takes {wanted}"
        raise InputError(f"INPUT {path}: has {has}. {fix}")
    numbered = enumerate(rows if has_names else chain([first], rows), 1)
    return (read_row([shown(path), n], row, len(first), places) for n, row in numbered)


def read_row(
    origin: list[Any], row: list[str] | csv.Error, width: int, places: Sequence[int]
) -> ReadSample:
    """Read the numbers at ``places`` of a row, or say what is wrong with it."""
    if isinstance(row, csv.Error):
        return ReadSample(origin, None, str(row))
    if len(row) != width:
        lines = 1 + "".join(row).count("\n")
        quote = f" in {lines} lines: is a quote not closed?" if lines > 1 else ""
        few = "few" if len(row) < width else "many"
        wrong = f"it has {len(row)} columns, too {few}: the first row has {width}{quote}"
        return ReadSample(origin, None, wrong)
    numbers = [number_in(row[place]) for place in places]
    for place, number in zip(places, numbers, strict=True):
        if number is None or not abs(number) <= torch.finfo().max:
            return ReadSample(origin, None, f"{row[place][:40]!r} is no finite number")
    return ReadSample(origin, torch.tensor(numbers))


def open_table(path: Path) -> Iterator[list[str] | csv.Error]:
    """Read rows that are not blank; of one that is no CSV, what is wrong with it."""
    try:
        place = Path("/dev/stdin" if str(path) == "-" else path)
        with place.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.reader(file)
            while True:
                try:
                    if row := next(reader):
                        yield row
                except csv.Error as error:
                    yield error
                except StopIteration:
                    return
    except OSError as error:
        raise InputError(f"INPUT {path}: cannot be read ({error.strerror}).") from None


def number_in(text: str) -> float | None:
    """Read a number as a CSV file holds it: not 1_000, which Python would take."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def write_rows(
    predictor: Predictor, samples: Iterable[ReadSample], file: TextIO, options: Any, counts: Any
) -> None:
    """Write a row for each sample, and count ``rows`` and ``errors``."""
    samples, is_csv = iter(samples), options.format == "csv"
    columns = column_names(predictor, options.top_k)
    writer = csv.DictWriter(file, columns, lineterminator="\n", restval="")
    if is_csv:
        writer.writeheader()
    while batch := list(islice(samples, options.batch_size)):
        read = [sample.value for sample in batch if sample.value is not None]
        results = iter(run_model(predictor, read, options.top_k))
        for sample in batch:
            found = [] if sample.value is None else next(results)
            error = sample.error or ("" if found else "the model gives NaN or infinity for it")
            row = dict(zip(columns, [*sample.origin, *found], strict=False))
            row |= {"error": error} if error or is_csv else {}
            if is_csv:
                writer.writerow(row)
            else:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            counts["errors"] += bool(error)
        file.flush()
        counts["rows"] += len(batch)


def column_names(predictor: Predictor, top_k: int) -> list[str]:
    """Name the columns: which sample a row is of, what was predicted, what is wrong."""
    origin = ["file"] if predictor.takes_images else ["file", "row"]
    if predictor.class_names is not None:
        places = [""] + [f"_{place}" for place in range(2, top_k + 1)]
        return [*origin, *(f"{n}{p}" for p in places for n in ("label", "probability")), "error"]
    samples = predictor.random_samples(1).to(predictor.device)
    outputs = predictor(samples).reshape(1, -1)
    numbers = [""] if outputs.shape[1] == 1 else [f"_{n + 1}" for n in range(outputs.shape[1])]
    return [*origin, *(f"prediction{number}" for number in numbers), "error"]


def run_model(predictor: Predictor, samples: Sequence[Tensor], top_k: int) -> list[list[Any]]:
    """Predict labels and probabilities, or values; none where an output is NaN or infinite."""
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
