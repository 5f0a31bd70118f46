"""A lab: trainings that differ in one thing, several seeds of each, and what is read of them."""

import contextlib
import csv
import io
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from src.train import main as train

Table = Mapping[str, Mapping[str, list[float]]]  # row: column: its values, one a seed or round

# What no lab reads of a run.
LEAN = [f"--callbacks.{name}=null" for name in ("plots", "progress", "image_summaries")]
LEAN += ["--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"]
TINY = (
    "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1 "
    "--trainer.limit_test_batches 1 --trainer.check_val_every_n_epoch 1"
)


class Run(NamedTuple):
    """What a finished training left.

    Args:
        metrics: The content of ``metrics.json``; nothing where a loss was not finite.
        rows: Those of ``metrics.csv``, each with the metrics that it has.
        checkpoint: The content of ``last.ckpt``.
    """

    metrics: Mapping[str, float]
    rows: list[dict[str, float]]
    checkpoint: Mapping[str, Any]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Of the model at the end, by their names."""
        found: dict[str, Tensor] = self.checkpoint["state_dict"]
        return found

    def column(self, name: str) -> list[float]:
        """Every value of a metric, in the order of steps."""
        return [row[name] for row in self.rows if name in row]


class Result(NamedTuple):
    """The numbers of a lab, and perhaps a picture."""

    table: Table
    picture: Figure | None = None


Runs = Mapping[str, list[Run]]  # row: one a seed
Column = str | Callable[[Run], float]


@dataclass(frozen=True)
class Lab:
    """Trainings by the command line alone.

    Args:
        base: Options of ``src.train`` that all have, as a user types them.
        rows: A row's label, in Markdown, and its further options.
        columns: A column's heading, and what it shows: a metric of ``metrics.json``, or a function
            of a run.
        seeds: How many there are, from 0.
        quick: Options that make a training tiny.
        quick_base: What then stands for ``base``, where that needs data from elsewhere.
        draw: Makes a picture of the runs.
    """

    base: str
    rows: Mapping[str, str]
    columns: Mapping[str, Column]
    seeds: int = 5
    quick: str = TINY
    quick_base: str | None = None
    draw: Callable[[Runs], Figure] | None = field(default=None)

    def commands(self) -> list[str]:
        """Return the command line of each row."""
        return [f"python -m src.train {self.base} {more}".strip() for more in self.rows.values()]

    def results(self, quick: bool = False) -> Result:
        """Train all rows with one seed, then with the next, so that noise hits all alike."""
        runs: dict[str, list[Run]] = {label: [] for label in self.rows}
        for seed in range(1 if quick else self.seeds):
            for label, more in self.rows.items():
                tiny = f"{self.quick_base or self.base} {more} {self.quick}"
                runs[label].append(trained(tiny if quick else f"{self.base} {more}", seed))
                print(".", end="", file=sys.stderr, flush=True)
        table = {
            label: {name: [value(run, read) for run in some] for name, read in self.columns.items()}
            for label, some in runs.items()
        }
        return Result(table, self.draw and self.draw(runs))


@dataclass(frozen=True)
class Measured:
    """A measurement that no training's options describe.

    Args:
        measure: Makes the result; with True, of next to nothing.
    """

    measure: Callable[[bool], Result]

    def commands(self) -> list[str]:
        """None of ``src.train``."""
        return []

    def results(self, quick: bool = False) -> Result:
        """Measure."""
        return self.measure(quick)


def options(*given: str) -> dict[str, str]:
    """Make rows that are labelled with their own options."""
    return {f"`{option}`": option for option in given}


def metrics(*names: str) -> dict[str, Column]:
    """Make columns that are headed by their own metrics."""
    return {f"`{name}`": name for name in names}


def value(run: Run, column: Column) -> float:
    """Read a column of a run: NaN where it is a metric, and a loss was not finite."""
    if not isinstance(column, str):
        return float(column(run))
    return float(run.metrics[column]) if run.metrics else math.nan


def trained(given: str, seed: int) -> Run:
    """Train in this process as ``python -m src.train`` does, in a folder that is then removed.

    Raises:
        SystemExit: It refused its options; what it said is printed.
    """
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        ours = ["--seed_everything", str(seed), "--runs_dir", folder, "--run_name", "run"]
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                train([*shlex.split(given), *LEAN, *ours])
        except BaseException as error:
            if any(isinstance(cause, FloatingPointError) for cause in causes(error)):
                return Run({}, read_rows(next(Path(folder).glob("*/run"))), {})
            print(f"\n{said.getvalue()}", file=sys.stderr)
            raise
        (run,) = Path(folder).glob("*/run")
        last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        metrics = json.loads((run / "metrics.json").read_text())
        return Run(metrics, read_rows(run), last)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised for."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def read_rows(run: Path) -> list[dict[str, float]]:
    """Read ``metrics.csv`` of a run, which one that failed early has not."""
    if not (run / "metrics.csv").exists():
        return []
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
