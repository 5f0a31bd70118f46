"""Tables of runs, as wide as a terminal and no wider; in a pipe nothing is left out."""

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from . import status
from .listing import ListedRun, printable, text_of
from .output import drawing

Cells = dict[str, str]  # of a row, by the names of columns

READINGS = {"lr", "momentum", "weight_decay", "memory_mib", "train_seconds", "steps", "epochs"}
PARTS_OF_READINGS = ("grad/", "grad_norm/", "lr/", "momentum/", "weight_decay/")
DIFFERS = "differs in"


def print_runs(runs: list[ListedRun], groups: list[dict[str, Any]], first: str | None) -> None:
    """Print runs in this order, and below them groups; ``first`` is a metric to be shown."""
    metrics = ranked((name for run in runs for name in run.metrics), first)
    short = short_names({key for run in runs for key in run.differs})
    rows, means = [], []
    for run in runs:
        state, error, seconds, _ = run.state
        cells = {name: number_text(value) for name, value in run.metrics.items()}
        cells |= {
            "run": run.name,
            "state": f"{state} (killed)" if error == status.KILLED else state,
        }
        cells["duration"] = "" if seconds is None else str(timedelta(seconds=round(seconds)))
        cells[DIFFERS] = ", ".join(f"{short[k]}={text_of(v)}" for k, v in run.differs.items())
        rows.append(cells)
    for group in groups:
        cells = {"experiment": group["experiment"]}
        for name, found in group["metrics"].items():
            spread = "" if found["sd"] is None else f" ± {found['sd']:.2g}"
            cells[name] = f"{number_text(found['mean'])}{spread} ({found['n']})"
        cells[DIFFERS] = ", ".join(f"{short[k]}={text_of(v)}" for k, v in group["config"].items())
        means.append(cells)
    with drawing() as console:
        draw(console, rows, metrics, ["run", "state"], [DIFFERS, "duration"])
        for run in runs:
            if run.state.error not in (None, status.KILLED):
                console.print(Text(f"{run.name}: {printable(str(run.state.error))}"))
        if means:
            console.print(Text("\nMean ± standard deviation over seeds (number of runs)"))
            draw(console, means, metrics, ["experiment"], [DIFFERS])


def draw(
    console: Console, rows: list[Cells], metrics: list[str], before: list[str], after: list[str]
) -> None:
    """Draw a table with as many of the metrics, by their order, as the console has room for."""
    metrics = [name for name in metrics if any(name in row for row in rows)]
    after = [name for name in after if any(row.get(name) for row in rows)]
    unlimited = console.options.update(width=10**6)
    forms = [
        (number, slash)  # with many metrics, else with names on two lines
        for least, slash in ((2, "/"), (1, "/\n"))
        for number in range(len(metrics), min(len(metrics), least) - 1, -1)
    ]
    for number, slash in forms:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        columns = [*before, *metrics[:number], *after]
        for name in columns:
            is_text, is_folded = name in (*before, DIFFERS), name == DIFFERS
            table.add_column(
                Text(name),
                justify="left" if is_text else "right",
                overflow="fold",
                no_wrap=not is_folded,
                max_width=console.width // 4 if is_folded else None,
            )
        for row in rows:
            row = row | {before[0]: row[before[0]].replace("/", slash, 1)}
            table.add_row(*(Text(row.get(name, "")) for name in columns))
        if Measurement.get(console, unlimited, table).maximum <= console.width:
            break
    console.print(table)


def ranked(names: Iterable[str], first: str | None) -> list[str]:
    """Order metrics by how much they tell: those of most runs; of the test, of validation, others.

    Readings on the way are no results, and left out; ``first`` comes before all.
    """
    kinds = ("test/", "val/", "", "train/")
    counts = Counter(names)

    def rank(name: str) -> tuple[bool, int, int, bool, str]:
        kind = next((k for k in kinds if k and name.startswith(k)), "")
        return name != first, -counts[name], kinds.index(kind), name.endswith("loss"), name

    readings = {n for n in counts if n in READINGS or n.startswith(PARTS_OF_READINGS)} - {first}
    return sorted(counts.keys() - readings, key=rank)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Give each key its shortest ending that no other has."""
    endings = {key: [key.split(".", n)[-1] for n in range(key.count("."), -1, -1)] for key in keys}
    taken = Counter(ending for several in endings.values() for ending in several)
    return {
        key: next((ending for ending in several if taken[ending] == 1), key)
        for key, several in endings.items()
    }


def number_text(value: float) -> str:
    """Write a metric with four digits, as far as they tell."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
