"""Pictures of a run: figures from what it logged and found, drawn without a display.

Matplotlib is imported when the first is drawn: it takes a while.
"""

import csv
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120  # 720 pixels wide, for letters to be read where 600 are shown
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito 2008
STYLES = ("-", "--", "-.", ":")
GREY = "#999999"
MOST_MARKERS = 30  # on a line; of more points none is marked
MOST_NUMBERED = 20  # classes whose cells hold numbers
NUM_COLUMNS = 4  # of mistakes
LARGEST = 1e30  # float32 sums stay below; beyond it matplotlib's own arithmetic overflows
# `train/loss_step`, `train/loss_epoch`, `val/acc`, and how others name them: `train_loss`
LOGGED = re.compile(r"(train|val|valid|validation)[/_](.+?)(_step|_epoch)?")
Line = tuple[list[float], list[float]]  # places along x, and values


class Curves(NamedTuple):
    """What a run logged, by name; x is in epochs, or in steps."""

    x_label: str
    lines: dict[str, Line]


class Panel(NamedTuple):
    """Points, and lines by name, over the same axes: each an x (N,) and a y (N,)."""

    x_label: str
    y_label: str
    points: tuple[Tensor, Tensor]
    lines: dict[str, tuple[Tensor, Tensor]]


def read_curves(path: Path) -> Curves:
    """Read ``metrics.csv``. Where train metrics of whole epochs are logged, x is in epochs done."""
    lines: dict[str, Line] = {}
    ends = {0: 0}  # epochs done: steps done
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            step, epoch = int(row.pop("step")) + 1, row.pop("epoch", None)
            for name in [name for name, value in row.items() if value]:
                steps, values = lines.setdefault(name, ([], []))
                steps.append(step)
                values.append(float(row[name]))
                logged = LOGGED.fullmatch(name)
                if epoch and logged and logged[1] == "train" and logged[3] != "_step":
                    ends[int(float(epoch)) + 1] = step
    if len(ends) == 1:
        return Curves("step", lines)
    epochs, done = list(ends), list(ends.values())
    in_epochs = {n: (np.interp(x, done, epochs).tolist(), y) for n, (x, y) in lines.items()}
    return Curves("epoch", in_epochs)


def curve_figures(title: str, curves: Curves, max_norm: float | None = None) -> dict[str, "Figure"]:
    """Draw, by file name, loss and metrics, learning rate, and gradient norm with its limit."""
    figures: dict[str, Figure] = {}

    def add(file: str, what: str, y_label: str) -> "Axes":
        figures[file], (axes,) = blank()
        tidy(axes, f"{title}: {what}", curves.x_label, y_label)
        return axes

    def starting(name: str) -> dict[str, Line]:
        return {n: line for n, line in curves.lines.items() if f"{n}/".startswith(f"{name}/")}

    # By metric: of each split, train before val, the line by step and the line by epoch.
    found: dict[str, tuple[dict[str, Line], dict[str, Line]]] = {}
    for match in filter(None, map(LOGGED.fullmatch, sorted(curves.lines))):
        by_step, whole = found.setdefault(match[2], ({}, {}))
        (by_step if match[3] == "_step" else whole)[match[1]] = curves.lines[match[0]]
    for metric, (by_step, whole) in sorted(found.items()):
        axes = add(metric.replace("/", "_"), metric, metric)
        for split, line in by_step.items() if whole else ():
            if len(line[0]) > 1:  # else no line yet
                axes.plot(*finite(line), color=GREY, linewidth=0.8, label=f"{split}, by step")
        add_lines(axes, whole or by_step)
    if rates := starting("lr"):
        axes = add("lr", "learning rate", "learning rate")
        add_lines(axes, rates, log=False)
        axes.set_ylim(bottom=0)
    if norms := starting("grad/norm"):
        axes = add("grad_norm", "gradient norm", "norm before clipping")
        if max_norm is not None:
            axes.axhline(max_norm, color=COLOURS[1], linestyle="--", label=f"clip at {max_norm:g}")
        add_lines(axes, {n.removeprefix("grad/"): line for n, line in norms.items()})
    return figures


def confusion_figure(title: str, matrix: Tensor, labels: Sequence[str]) -> "Figure":
    """Draw a matrix (K, K) int64, rows true, columns predicted, in percent of each row."""
    num_classes = len(matrix)
    percent = (100 * matrix / matrix.sum(1, keepdim=True).clamp(min=1)).round().int().numpy()
    accuracy = 100 * float(matrix.trace()) / max(1, int(matrix.sum()))
    heading = f"{title}: {accuracy:.1f} % of {int(matrix.sum()):,} test samples right"
    figure, (axes,) = blank(5.4)
    tidy(axes, heading, "predicted class", "true class, its samples in %")
    axes.grid(False)
    # Not by torchmetrics: it hands matplotlib tensors, of which numpy 2 warns, and tilts all names.
    shades = axes.imshow(percent, cmap="Blues", vmin=0)
    size = 11 if num_classes <= 12 else 8
    if num_classes > MOST_NUMBERED:
        figure.colorbar(shades)
    else:
        for (row, column), value in np.ndenumerate(percent):
            colour = "white" if 2 * value > percent.max() else "black"
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size}
            axes.text(column, row, str(value), color=colour, **style)
    every = math.ceil(num_classes / MOST_NUMBERED)
    ticks = range(0, num_classes, every)
    tilted: dict[str, Any] = {"rotation": 45, "ha": "right"} if max(map(len, labels)) > 3 else {}
    axes.set_xticks(ticks, labels[::every], fontsize=size, **tilted)
    axes.set_yticks(ticks, labels[::every], fontsize=size)
    return figure


def worst_figure(title: str, images: Tensor, captions: Sequence[str]) -> "Figure":
    """Draw images (N, H, W, 3) uint8 with captions of three lines below, by rows."""
    num_rows = math.ceil(len(images) / NUM_COLUMNS)
    figure, (axes,) = blank(0.5 + 2.15 * num_rows)
    axes.set_title(shown(title, 60), fontsize=13)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = number % NUM_COLUMNS * 1.2, number // NUM_COLUMNS * 1.65
        axes.imshow(image.numpy(), extent=(left, left + 1, top + 1, top), interpolation="nearest")
        axes.text(left + 0.5, top + 1.05, caption, ha="center", va="top", fontsize=10)
    axes.set(xlim=(-0.1, 1.2 * NUM_COLUMNS - 0.1), ylim=(1.65 * num_rows, 0))
    axes.set_axis_off()
    return figure


def fit_figure(title: str, panels: Sequence[Panel]) -> "Figure":
    """Draw data and lines in panels side by side."""
    figure, parts = blank(num_panels=len(panels))
    for axes, panel in zip(parts, panels, strict=True):
        tidy(axes, "", panel.x_label, panel.y_label)
        points = [values.tolist() for values in panel.points]
        axes.plot(*finite(points), "o", color=GREY, markersize=5, alpha=0.5, label="data")
        for place, (name, line) in enumerate(panel.lines.items()):
            ends = [values.tolist() for values in line]
            axes.plot(*finite(ends), STYLES[place], color=COLOURS[place], linewidth=2, label=name)
        axes.legend(fontsize=11)
    figure.suptitle(shown(title, 60), fontsize=13)
    return figure


def save(figures: Mapping[str, "Figure"], folder: Path) -> None:
    """Write each figure as ``folder``/NAME.png, whole or not at all."""
    for name, figure in figures.items():
        folder.mkdir(exist_ok=True)
        part = folder / f"{name}.part"
        figure.savefig(part, format="png")
        os.replace(part, folder / f"{name}.png")


def class_labels(names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Name classes; by number where names are missing, alike, or have signs not in the font."""
    if names is None or len(names) != num_classes:
        names = [""] * num_classes
    short = [shown(name) if glyphs().issuperset(map(ord, name)) else "" for name in names]
    return [n if n and short.count(n) == 1 else str(number) for number, n in enumerate(short)]


def shown(text: str, length: int = 14) -> str:
    """Make a text of others fit to be drawn: short, on one line, and no formula."""
    line = " ".join(text.split())
    cut = line if len(line) <= length else line[: length - 1] + "…"
    return "".join(sign if ord(sign) in glyphs() else "?" for sign in cut).replace("$", r"\$")


@cache
def glyphs() -> frozenset[int]:
    """List the signs that matplotlib's own font can draw."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def finite(line: Sequence[list[float]]) -> Line:
    """Leave gaps in a line for values that cannot be drawn."""
    return line[0], [value if abs(value) < LARGEST else math.nan for value in line[1]]


def blank(height: float = 3.75, num_panels: int = 1) -> tuple["Figure", "list[Axes]"]:
    """Make a figure of a height in inches, with axes; not by ``pyplot``, which would keep it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, height), dpi=DPI, layout="constrained")
    return figure, list(figure.subplots(1, num_panels, squeeze=False)[0])


def tidy(axes: "Axes", title: str, x_label: str, y_label: str) -> None:
    """Name axes, in letters that can be read where the picture is shown small."""
    axes.set_title(shown(title, 60), fontsize=13)
    axes.set_xlabel(shown(x_label, 40), fontsize=12)
    axes.set_ylabel(shown(y_label, 40), fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def add_lines(axes: "Axes", lines: Mapping[str, Line], log: bool = True) -> None:
    """Add lines, a legend with their last values, and scales that suit all; x is from 0."""
    for number, (name, line) in enumerate(lines.items()):
        marker = "o" if len(line[0]) <= MOST_MARKERS else ""
        style = f"{STYLES[number % len(STYLES)]}{marker}"
        label = f"{shown(name, 30)}, last {line[1][-1]:.4g}"
        axes.plot(*finite(line), style, color=COLOURS[number % len(COLOURS)], label=label)
    drawn = [value for line in axes.lines for value in np.asarray(line.get_ydata(), float)]
    known = [value for value in drawn if not math.isnan(value)]
    if log and known and 0 < 100 * min(known) < max(known):
        axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    axes.legend(fontsize=11)
