"""Tables of runs, as wide as a terminal and no wider."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import status
from .files import is_terminal, standard_output
from .listing import Group, Run, printable, text_of

Cells = dict[str, str]  # of a row, by the names of columns

READINGS = {"lr", "momentum", "weight_decay", "memory_mib", "samples_per_s", "train_seconds"}
READINGS |= {"steps", "epochs"}
PARTS_OF_READINGS = ("grad/", "grad_norm/", "lr/", "momentum/", "weight_decay/")
DIFFERS = "differs in"
PIPE_WIDTH = 160


def draw_runs(runs: list[Run], groups: list[Group], first: str | None) -> str:
    """Draw runs, and below them groups, with as many metrics as there is room for.

    Args:
        runs: To be shown, in this order.
        groups: Of seeds.
        first: The column that they were sorted by; a metric is always shown.
    """
    console = Console(width=None if is_terminal() else PIPE_WIDTH)
    metrics = ranked((name for run in runs for name in run.metrics), first)
    settings = {run.experiment: list[str]() for run in runs}
    for run in runs:
        settings[run.experiment] += run.differs
    short = {experiment: short_names({*keys}) for experiment, keys in settings.items()}
    with standard_output(), console.capture() as drawn:
        rows = [cells_of_run(run, short[run.experiment]) for run in runs]
        draw(console, rows, metrics, ["run", "state"], [DIFFERS, "duration", "samples/s"])
        for run in runs:
            if run.progress.error not in (None, status.KILLED):
                console.print(Text(f"{run.name}: {printable(str(run.progress.error))}"))
        if groups:
            console.print(Text("\nMean ± standard deviation over seeds (number of runs)"))
            rows = [cells_of_group(group, short[group.experiment]) for group in groups]
            draw(console, rows, metrics, ["experiment"], [DIFFERS])
    return "\n".join(line.rstrip() for line in drawn.get().splitlines()).strip("\n") + "\n"


def cells_of_run(run: Run, short: dict[str, str]) -> Cells:
    """Write the columns of a run; ``short`` are the names of settings."""
    state, error, seconds, _ = run.progress
    speed = run.metrics.get("samples_per_s")
    return {
        **{name: number(value) for name, value in run.metrics.items()},
        "run": run.name,
        "state": f"{state} ({error})" if error == status.KILLED else state,
        "duration": "" if seconds is None else duration(seconds),
        "samples/s": "" if speed is None else f"{speed:,.0f}",
        DIFFERS: settings_in(run.differs, short),
    }


def cells_of_group(group: Group, short: dict[str, str]) -> Cells:
    """Write the columns of a group; ``short`` are the names of settings."""
    values = {name: spread(found) for name, found in group.metrics.items()}
    return {**values, "experiment": group.experiment, DIFFERS: settings_in(group.config, short)}


def settings_in(config: dict[str, Any], short: dict[str, str]) -> str:
    """Write settings as ``name=value``."""
    return ", ".join(f"{short[key]}={text_of(value)}" for key, value in config.items())


def draw(
    console: Console,
    rows: list[Cells],
    metrics: list[str],
    before: list[str],
    after: list[str],
) -> None:
    """Draw a table as wide as the console, leaving out what matters least.

    Args:
        console: Where to.
        rows: Cells by column.
        metrics: Columns to choose from, the one that matters most first.
        before: Columns left of them.
        after: Columns right of them.
    """
    rest = [name for name in after if any(row.get(name) for row in rows)]
    metrics = [name for name in metrics if any(name in row for row in rows)]

    def is_too_wide(columns: Iterable[str]) -> bool:
        widths = {n: max(cell_len(n), *(cell_len(row.get(n, "")) for row in rows)) for n in columns}
        widths[before[0]] = max(cell_len(p) for row in rows for p in row[before[0]].split("\n"))
        if DIFFERS in widths:
            widths[DIFFERS] = min(widths[DIFFERS], console.width // 4 - 4)  # folded
        return sum(width + 2 for width in widths.values()) + 2 > console.width

    if is_too_wide([*before, *metrics[:2], *rest]):
        rows = [{**row, before[0]: row[before[0]].replace("/", "/\n", 1)} for row in rows]
    for name in ("samples/s", "duration"):
        if name in rest and is_too_wide([*before, *metrics[:1], *rest]):
            rest.remove(name)
    shown = metrics[:1]
    for name in metrics[1:]:
        if is_too_wide([*before, *shown, name, *rest]):
            break
        shown.append(name)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (columns := [*before, *shown, *rest]):
        is_text = name in (*before, DIFFERS)
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(Text(name), justify=justify, no_wrap=name != DIFFERS, overflow="fold")
    for row in rows:
        table.add_row(*(Text(row.get(name, "")) for name in columns))
    console.print(table)


def ranked(names: Iterable[str], first: str | None) -> list[str]:
    """Order metrics by how much they tell: those of most runs; of the test, of validation, others.

    Args:
        names: Of each run.
        first: What comes before all.
    """
    kinds = ("test/", "val/", "", "train/")
    counts = Counter(names)

    def rank(name: str) -> tuple[bool, int, int, bool, str]:
        kind = next((k for k in kinds if k and name.startswith(k)), "")
        return name != first, -counts[name], kinds.index(kind), name.endswith("loss"), name

    return sorted((n for n in counts if n == first or not is_reading(n)), key=rank)


def is_reading(name: str) -> bool:
    """Tell whether a metric is a reading on the way rather than a result."""
    return name in READINGS or name.startswith(PARTS_OF_READINGS)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Give each key its shortest ending that no other has."""
    endings = {key: [key.split(".", n)[-1] for n in range(key.count("."), -1, -1)] for key in keys}
    taken = [ending for several in endings.values() for ending in several]
    return {
        key: next((ending for ending in several if taken.count(ending) == 1), key)
        for key, several in endings.items()
    }


def spread(found: dict[str, Any]) -> str:
    """Write a mean with its standard deviation, where there is one, and the number of runs."""
    deviation = "" if found["sd"] is None else f" ± {found['sd']:.2g}"
    return f"{number(found['mean'])}{deviation} ({found['n']})"


def number(value: float) -> str:
    """Write a metric with four digits, as far as they tell."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Write seconds as ``4.2 s``, ``3 min 05 s`` or ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min"
