"""Predictions of a trained model, one row a sample, written as they come."""

import csv
import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

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
from .samples import ReadSample, TableSamples, read_images, read_table

MOST_NAMED = 5  # of the columns that are passed over


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
    kept: list[str] = []
    if images:
        for name in ("columns", "header", "keep"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name}: is for CSV files, and the model takes images.")
        samples, total = read_images(predictor, files, options.batch_size), len(files)
    else:
        tables = [read_table(path, predictor, options) for path in files]
        kept = check_kept(files, tables)
        samples, total = chain(*(table.samples for table in tables)), None
    if sys.stderr.isatty():
        console = Console(stderr=True)
        samples = track(samples, "predicting", total, console=console, transient=True)
    counts: Counter[str] = Counter()
    try:
        columns = column_names(predictor.to(device), options.top_k, kept)
        opened = None if output is None else output.open("w", encoding="utf-8", newline="")
        with opened or standard_output() as file:
            write_rows(predictor, samples, file, columns, options, counts)
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


def write_rows(
    predictor: Predictor,
    samples: Iterable[ReadSample],
    file: TextIO,
    columns: list[str],
    options: Namespace,
    counts: Counter[str],
) -> None:
    """Write a row for each sample, and count ``rows`` and ``errors``."""
    samples, is_csv = iter(samples), options.format == "csv"
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


def check_kept(files: Sequence[Path], tables: Sequence[TableSamples]) -> list[str]:
    """Return the columns that are copied, the same of all tables; say which are passed over."""
    for path, table in zip(files, tables, strict=True):
        if table.kept != tables[0].kept:
            has = f"has other columns to keep than {files[0]}: {', '.join(table.kept) or 'none'}"
            raise InputError(f"INPUT {path}: {has}. Name those that all have.")
    if names := dict.fromkeys(name for table in tables for name in table.passed_over):
        listed = ", ".join(list(names)[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
        number = f"{len(names)} column{'s' if len(names) > 1 else ''}"
        warn(f"INPUT: passed over {number}: {listed}. To copy them: --keep all")
    return tables[0].kept


def column_names(predictor: Predictor, top_k: int, kept: Sequence[str]) -> list[str]:
    """Name the columns: which sample a row is of, what was predicted, what is wrong."""
    origin = ["file"] if predictor.takes_images else ["file", "row"]
    if predictor.class_names is not None:
        places = [""] + [f"_{place}" for place in range(2, top_k + 1)]
        found = [f"{n}{p}" for p in places for n in ("label", "probability")]
    else:
        samples = predictor.random_samples(1).to(predictor.device)
        width = predictor(samples).numel()
        found = ["prediction"] if width == 1 else [f"prediction_{n + 1}" for n in range(width)]
    for name in kept:
        if name in (*origin, *found, "error"):
            raise InputError(f"--keep {name}: is a column of the output itself. Rename it.")
    return [*origin, *kept, *found, "error"]


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


def rounded(value: float) -> float:
    """Leave out the digits that a float32 does not have."""
    return float(f"{value:.7g}")
