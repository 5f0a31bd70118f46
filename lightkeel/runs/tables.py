"""Tables of runs, as wide as a terminal and no wider; in a pipe nothing is left out."""

from datetime import timedelta
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import status
from .listing import ListedRun, printable, text_of
from .output import drawing
from .sweeps import ListedSweep

KINDS = ("test/", "val/")  # of metrics that come first
DIFFERS = "differs in"


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
                console.print(Text(f"{run.name}: {printable(str(run.state.error))}"))
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
    """Draw a table with as many metrics, of the test first, as the console has room for."""

    def rank(name: str) -> tuple[int, int, str]:
        kind = next((n for n, kind in enumerate(KINDS) if name.startswith(kind)), len(KINDS))
        return [*first, name].index(name), kind, name

    metrics = sorted({name for row in rows for name in row}.difference(left, right), key=rank)
    right = [name for name in right if any(row[name] for row in rows)]
    unlimited = console.options.update(width=10**6)
    most = len(metrics)
    forms = [("/", number) for number in range(most, min(most, 2) - 1, -1)]
    for slash, number in [*forms, *(("/\n", n) for n in range(most, -1, -1))]:  # on two lines
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        columns = [*left, *metrics[:number], *right]
        for name in columns:
            width = console.width // 4 if name == DIFFERS else None
            side: Any = "left" if name in (*left, DIFFERS) else "right"
            table.add_column(Text(name), justify=side, no_wrap=not width, max_width=width)
        for row in rows:
            row = row | {left[0]: row[left[0]].replace("/", slash, 1)}
            table.add_row(*(Text(row.get(name, ""), overflow="fold") for name in columns))
        if console.measure(table, options=unlimited).maximum <= console.width:
            break
    console.print(table)


def _settings(differs: dict[str, Any]) -> str:
    return ", ".join(f"{name}={text_of(value)}" for name, value in differs.items())


def _number(value: float) -> str:
    """Write a metric with four digits, as far as they tell."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
