"""Tables of runs, as wide as a terminal and no wider; in a pipe nothing is left out."""

from collections import Counter
from datetime import timedelta
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from . import status
from .listing import ListedRun, printable, text_of
from .output import drawing
from .sweeps import ListedSweep

KINDS = ("test/", "val/")  # of metrics that come first
DIFFERS = "differs in"
GAP, INDENT = "   ", "  "


def print_runs(
    runs: list[ListedRun],
    groups: list[dict[str, Any]],
    sweeps: list[ListedSweep],
    first: list[str],
) -> None:
    """Print runs in this order, below them groups and sweeps; ``first`` are columns to be shown."""
    rows, means = [], []
    for run in runs:
        state, error, seconds, _ = run.state
        shown = f"{state} (killed)" if error == status.KILLED else state
        cells = {name: _number(value) for name, value in run.metrics.items()}
        cells |= {"run": run.name, "state": shown, DIFFERS: _settings(run.differs)}
        cells["duration"] = "" if seconds is None else str(timedelta(seconds=round(seconds)))
        rows.append(cells)
    for group in groups:
        cells = {"experiment": group["experiment"], DIFFERS: _settings(group["config"])}
        for name, found in group["metrics"].items():
            spread = "" if found["sd"] is None else f" ± {found['sd']:.2g}"
            cells[name] = f"{_number(found['mean'])}{spread} ({found['n']})"
        means.append(cells)
    with drawing() as console:
        if rows:
            _draw(console, rows, ["run", "state"], [DIFFERS, "duration"], first)
        for run in runs:
            if run.state.error not in (None, status.KILLED):
                text = Text(f"{run.name}: {printable(str(run.state.error))}")
                console.print(text, soft_wrap=True)
        if means:
            console.print(Text("\nMean ± standard deviation over seeds (number of runs)"))
            _draw(console, means, ["experiment"], [DIFFERS], first)
        if sweeps:
            console.print()
            _draw(console, [*map(_sweep, sweeps)], ["sweep", "trials"], ["best"], [])


def _sweep(sweep: ListedSweep) -> dict[str, str]:
    counts = ", ".join(f"{number} {state}" for state, number in sweep.states.items())
    best = ""
    if row := sweep.best:
        best = f"{sweep.metric} {_number(row['value'])} (trial {row['trial']})"
    cells = {"sweep": sweep.name, "trials": counts, "best": best.lstrip()}
    return {name: printable(text) for name, text in cells.items()}


def _draw(
    console: Console,
    rows: list[dict[str, str]],
    left: list[str],
    right: list[str],
    first: list[str],
) -> None:
    """Draw a table in the first form that fits: nothing is broken in two, and no number is cut.

    A row is one line; or what it differs in is on a line below; or its name is on a line above too,
    and there are as many metrics as fit, those of test and validation first.
    """
    metrics = _ranked({name for row in rows for name in row}.difference(left, right), first)
    right = [name for name in right if any(row[name] for row in rows)]
    short = [name for name in right if name != DIFFERS]
    most = len(metrics)
    least = sum(name in first or name.startswith(KINDS) for name in metrics)
    forms = [(left, most, right), *((left, n, short) for n in range(most, least - 1, -1))]
    forms += [(left[1:], n, short) for n in range(most, -1, -1)]
    names = [*left, *metrics, *right]
    widths = {
        name: max(cell_len(row.get(name, "")) for row in [{name: name}, *rows]) for name in names
    }
    for start, number, end in forms:
        columns = [*start, *metrics[:number], *end]
        indent = "" if start == left else INDENT
        width = sum(widths[name] for name in columns) + len(GAP) * (len(columns) - 1)
        if len(indent) + width <= console.width:
            break

    def put(row: dict[str, str], style: str = "") -> None:
        cells = []
        for name in columns:
            blank, cell = " " * (widths[name] - cell_len(row.get(name, ""))), row.get(name, "")
            cells.append(f"{cell}{blank}" if name in (*left, DIFFERS) else f"{blank}{cell}")
        for line in [row[left[0]]] * bool(indent) + [indent + GAP.join(cells)] * bool(cells):
            console.print(Text(line, style), soft_wrap=True)

    put({name: name for name in names}, "bold")
    console.print(Text("─" * (len(indent) + width)), soft_wrap=True)
    for row in rows:
        put(row)
        if DIFFERS not in columns and row.get(DIFFERS):
            console.print(Padding(Text(row[DIFFERS]), (0, 0, 0, 2 * len(INDENT))))
    if number < most:
        where = "in a wider terminal, through a pipe, or by --json"
        console.print(Text(f"{most - number} more metrics: {where}"))


def _ranked(metrics: set[str], first: list[str]) -> list[str]:
    """Sort metrics: ``first``, those of test beside their like of validation, and others."""
    splits = Counter(name.partition("/")[2] for name in metrics if name.startswith(KINDS))

    def rank(name: str) -> tuple[int, bool, int, str, str]:
        kind, _, metric = name.partition("/")
        is_other = not name.startswith(KINDS)
        return [*first, name].index(name), is_other, -splits[metric], metric, kind

    return sorted(metrics, key=rank)


def _settings(differs: dict[str, Any]) -> str:
    return ", ".join(f"{name}={text_of(value)}" for name, value in differs.items())


def _number(value: float) -> str:
    """Write a metric with four digits, as far as they tell."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
