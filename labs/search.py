"""Grid, random and Bayesian search, each with the same number of trials."""

import contextlib
import csv
import io
import shlex
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

from src.sweep import main as sweep

from .kept import Numbers

EXPERIMENT = (
    "--config labs/images.yaml --trainer.max_epochs 2 --callbacks.plots null "
    "--callbacks.image_summaries null --metric val/loss --mode min"
)
RATES, MOMENTA = "[0.001,0.01,0.1,1.0]", "[0.0,0.33,0.66,0.99]"
GRID = f"{EXPERIMENT} --grid model.optimizer.lr={RATES} --grid model.optimizer.momentum={MOMENTA}"


def search(seed: int, more: str) -> Numbers:
    """Search learning rate and momentum in 16 trials; with ``more`` options, in two."""
    grid = GRID.replace(RATES, "[0.1]").replace(MOMENTA, "[0.0,0.33]") if more else GRID
    some = f"labs/search.yaml --num_trials {2 if more else 16} --seed {seed}"
    ways = {
        "grid of 4 x 4": grid,
        "random": f"{some} --sampler random",
        "Bayesian, `tpe`": f"{some} --sampler tpe",
    }
    if more:  # two tell that it works
        del ways["random"]
    return {label: best_of(searched(f"{way} {more}", seed)) for label, way in ways.items()}


def searched(options: str, seed: int) -> list[dict[str, str]]:
    """Sweep as ``python -m src.sweep`` does, and return the rows of ``trials.csv``."""
    with TemporaryDirectory() as folder:
        ours = f"--workers 2 --name it --runs_dir {folder} --seed_everything {seed}"
        with contextlib.redirect_stdout(io.StringIO()):
            status = sweep(shlex.split(f"{options} {ours}"))
        if status:  # it has said why on standard error: Optuna is not installed, or Ctrl-C
            raise SystemExit(status)
        with Path(folder, "sweeps", "it", "trials.csv").open(newline="") as file:
            return list(csv.DictReader(file))


def best_of(trials: list[dict[str, str]]) -> dict[str, float]:
    """Say how good the best trial is, how good half of them are, and what was tried."""
    values = [float(trial["value"] or "inf") for trial in trials]
    rates = {trial["model.optimizer.lr"] for trial in trials}
    return {
        "best `val/loss`": min(values),
        "median `val/loss`": statistics.median(values),
        "trials below 1": sum(value < 1 for value in values),
        "learning rates tried": len(rates),
    }
