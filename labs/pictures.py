"""Pictures of labs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .lab import Runs


def curves(runs: Runs, metric: str, is_log: bool = False) -> Figure:
    """Draw a metric over steps, a line for each row: the mean of its seeds, and their range."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for label, some in runs.items():
        found = [{row["step"]: row[metric] for row in run.rows if metric in row} for run in some]
        steps = sorted(set.intersection(*map(set, found)))
        values = np.array([[of[step] for step in steps] for of in found])  # (seeds, steps)
        (line,) = axes.plot(steps, values.mean(0), label=label.replace("`", ""))
        axes.fill_between(
            steps, values.min(0), values.max(0), alpha=0.2, color=line.get_color(), linewidth=0
        )
    axes.set(xlabel="step", ylabel=metric, yscale="log" if is_log else "linear")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def lines(
    values: Mapping[str, Sequence[float]], xlabel: str, ylabel: str, is_log: bool = False
) -> Figure:
    """Draw a line for each label, whose values stand at 1, 2, 3, ..."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for label, column in values.items():
        axes.plot(range(1, len(column) + 1), column, marker=".", label=label.replace("`", ""))
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if is_log else "linear")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure
