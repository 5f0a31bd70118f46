"""List runs, newest first: state, metrics, what differs in their configs, duration, speed."""

import csv
import io
import json
import math
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import safe_yaml, status
from .checks import suggest
from .errors import Arguments, InputError, readable
from .files import MOST_BYTES, read_json, read_text

FILES = ("config.yaml", "status.json", "metrics.csv", "metrics.json", "environment.json")
NAMES_OF_A_RUN = {"runs_dir", "run_name", "resume"}
SEEDS = {"seed_everything", "data.seed"}
SHORT = {"duration": "duration_s", "samples/s": "samples_per_s"}  # as the table heads them
READINGS = (
    *("lr", "grad/", "momentum", "weight_decay", "memory_mib", "samples_per_s", "train_seconds"),
    *("step", "epoch"),
)
DIFFERS = "differs in"
PIPE_WIDTH = 160


class Run(NamedTuple):
    """A run as it is listed.

    Args:
        name: Experiment and name.
        folder: Where it is.
        progress: How it gets on.
        metrics: Final values, or those so far.
        config: Settings by dotted names, without what only names the run.
    """

    name: str
    folder: Path
    progress: status.Progress
    metrics: dict[str, float]
    config: dict[str, Any]

    @property
    def experiment(self) -> str:
        return self.name.partition("/")[0]


Row = dict[str, Any]  # a run's columns: those that all have, metrics, and settings that differ


def main(args: Sequence[str] | None = None) -> int:
    """Run ``python -m src.runs`` with ``args``, or with the process's."""
    with readable():
        known = Arguments(prog="python -m src.runs", description=__doc__, allow_abbrev=False)
        known.add_argument(
            "dir",
            metavar="DIR",
            nargs="?",
            default="runs",
            help="folder of all runs (default: runs), of an experiment's or of one",
        )
        known.add_argument("--sort", metavar="NAME", help="a column; -NAME: the largest first")
        known.add_argument("--json", action="store_true", help="write JSON")
        known.add_argument("--csv", action="store_true", help="write CSV")
        options = known.parse_args(joined(sys.argv[1:] if args is None else args))
        if options.json and options.csv:
            raise InputError("--json: given beside --csv. Use one of them.")
        runs = find_runs(Path(options.dir))
        settings = differing(runs)
        if options.sort is not None:
            runs = sort(runs, settings, options.sort)
        groups = group_seeds(runs, settings)
        if options.json:
            write(as_json(runs, settings, groups))
        elif options.csv:
            write(as_csv(runs, settings))
        else:
            write(as_tables(runs, settings, groups, str(options.sort or "").lstrip("-")))
    return 0


def joined(args: Sequence[str]) -> list[str]:
    """Join ``--sort -NAME`` to one token, which argparse would take for another option."""
    tokens = list(args)
    for number, token in enumerate(tokens[:-1]):
        if token == "--sort" and tokens[number + 1][:1] == "-" != tokens[number + 1][1:2]:
            tokens[number : number + 2] = [f"--sort={tokens[number + 1]}"]
            break
    return tokens


def find_runs(folder: Path) -> list[Run]:
    """Read the runs in a folder of all runs, of an experiment or of one run, newest first.

    Raises:
        InputError: There is none.
    """
    if not folder.is_dir():
        raise InputError(f"DIR {folder}: no such folder. Train first, or name the folder of runs.")
    places = [folder] if is_run(folder) else [*folder.glob("*"), *folder.glob("*/*")]
    runs = [read_run(place) for place in places if is_run(place)]
    if not runs:
        raise InputError(f"DIR {folder}: holds no run. Train first, or name the folder of runs.")
    return sorted(runs, key=lambda run: (begun(run), run.name), reverse=True)


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds anything that a run writes."""
    return any(os.path.lexists(folder / name) for name in FILES)


def begun(run: Run) -> float:
    """Tell when a run was begun or last gone on with, Unix time."""
    return run.progress.since or status.changed(run.folder / "config.yaml")


def read_run(folder: Path) -> Run:
    """Read what can be read of a run, however damaged."""
    path = folder.absolute().resolve()
    metrics = read_json(folder / "metrics.json") or read_csv(folder / "metrics.csv")
    return Run(
        name=printable(f"{path.parent.name}/{path.name}"),
        folder=folder,
        progress=status.look(folder),
        metrics={printable(k): v for k, v in numbers(metrics).items() if not k.endswith("_step")},
        config=read_config(read_text(folder / "config.yaml") or ""),
    )


def read_csv(path: Path) -> dict[str, str]:
    """Read the last value of each metric; of a large file, from its end."""
    try:
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            header = file.readline(MOST_BYTES)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(len(header), size - MOST_BYTES))
            if file.tell() > len(header):
                file.readline()  # the rest of a row
            rows = file.read(MOST_BYTES)
    except OSError:
        return {}
    whole = header + rows[: rows.rfind(b"\n") + 1]  # a row may be being written
    lines = csv.reader(io.StringIO(whole.decode("utf-8", "replace"), newline=""))
    found: dict[str, str] = {}
    try:
        columns = next(lines, [])
        for row in lines:
            found |= {k: v for k, v in zip(columns, row, strict=False) if v}
    except csv.Error:
        pass  # what came before it counts
    return found


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Keep the values that are numbers."""
    found: dict[str, float] = {}
    for name, value in values.items():
        try:
            is_given = isinstance(value, (str, int, float)) and name not in ("step", "epoch")
            found |= {name: float(value)} if is_given else {}
        except (ValueError, OverflowError):
            continue
    return found


@cache
def read_config(text: str) -> dict[str, Any]:
    """Flatten a config, with keys as they are on the command line and short names of classes."""
    try:
        flat = safe_yaml.flatten(safe_yaml.load(text))
    except (yaml.YAMLError, safe_yaml.SizeError, RecursionError):
        return {}
    config = {}
    for key, value in flat.items():
        parts = [part for part in key.split(".") if part not in ("init_args", "class_path")]
        name = printable(".".join(parts))
        is_class = key.endswith("class_path") and isinstance(value, str)
        config[name] = value.rpartition(".")[2] if is_class else value
    return {name: value for name, value in config.items() if name and name not in NAMES_OF_A_RUN}


def differing(runs: Iterable[Run]) -> dict[str, list[str]]:
    """Name, for each experiment, the settings in which its runs differ, seeds last."""
    configs: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.config:
            configs.setdefault(run.experiment, []).append(run.config)
    return {experiment: differing_keys(several) for experiment, several in configs.items()}


def differing_keys(configs: list[dict[str, Any]]) -> list[str]:
    """Name the settings in which configs differ; of a part that some have not, it is enough."""
    found: list[str] = []
    order = list(dict.fromkeys(key for config in configs for key in config))
    for key in sorted(order):
        values = {text_of(config[key]) for config in configs if key in config}
        is_part = any(key.startswith(f"{whole}.") for whole in found)
        is_missing = not is_part and any(key not in config for config in configs)
        found += [key] if len(values) + is_missing > 1 else []
    return sorted(found, key=lambda key: (key in SEEDS, order.index(key)))


def row_of(run: Run, settings: dict[str, list[str]]) -> Row:
    """List the columns of a run by their names."""
    state, error, seconds, _ = run.progress
    own = {key: run.config[key] for key in settings.get(run.experiment, ()) if key in run.config}
    return {
        **own,
        **run.metrics,
        "run": run.name,
        "state": state,
        "error": error and printable(error),
        "duration_s": None if seconds is None else round(seconds, 3),
        "samples_per_s": run.metrics.get("samples_per_s"),
    }


def sort(runs: list[Run], settings: dict[str, list[str]], name: str) -> list[Run]:
    """Sort runs by a column; those that have no value in it come last.

    Raises:
        InputError: There is no such column.
    """
    rows = [(row_of(run, settings), run) for run in runs]
    names = {column: None for row, _ in rows for column in row}
    wanted = SHORT.get(name.lstrip("-"), name.lstrip("-"))
    column = full_name(wanted, names)
    if column is None:
        raise InputError(f"--sort {name}: no such column. {suggest(wanted, {*names, *SHORT})}")
    keys = {id(run): sort_key(row.get(column)) for row, run in rows}
    having = [run for run in runs if keys[id(run)] is not None]
    having.sort(key=lambda run: keys[id(run)] or (), reverse=name.startswith("-"))
    return having + [run for run in runs if keys[id(run)] is None]


def full_name(name: str, names: Iterable[str]) -> str | None:
    """Find a column by its name or, where only one ends so, by the last parts of it."""
    if name in names:
        return name
    ending = [known for known in names if known.endswith(f".{name}")]
    return ending[0] if len(ending) == 1 else None


def sort_key(value: Any) -> tuple[Any, ...] | None:
    """Make values of any kind comparable, numbers first; None where there is none."""
    if value is None or value != value:
        return None
    return (0, value) if isinstance(value, (int, float)) else (1, text_of(value))


def group_seeds(runs: Iterable[Run], settings: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Summarize runs that are done and differ in their seeds alone, where there are two or more.

    Of several with the same seed the newest counts.
    """
    found: dict[str, dict[str, Run]] = {}
    for run in sorted(runs, key=lambda run: (begun(run), run.name)):
        if run.progress.state == "done" and run.config:
            shared = {key: value for key, value in run.config.items() if key not in SEEDS}
            seeds = text_of({key: run.config.get(key) for key in sorted(SEEDS)})
            found.setdefault(text_of([run.experiment, shared]), {})[seeds] = run
    groups = [list(by_seed.values()) for by_seed in found.values() if len(by_seed) > 1]
    return [summarize(group, settings) for group in reversed(groups)]


def summarize(runs: list[Run], settings: dict[str, list[str]]) -> dict[str, Any]:
    """Give the mean and the sample standard deviation of each metric of runs."""
    experiment, config = runs[0].experiment, runs[0].config
    keys = [key for key in settings[experiment] if key in config and key not in SEEDS]
    metrics = {}
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        found = [run.metrics.get(name, math.nan) for run in runs]
        values = [value for value in found if math.isfinite(value)]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else None
            metrics[name] = {"mean": statistics.fmean(values), "sd": deviation, "n": len(values)}
    return {
        "experiment": experiment,
        "config": {key: config[key] for key in keys},
        "runs": [run.name for run in runs],
        "metrics": metrics,
    }


def as_json(runs: list[Run], settings: dict[str, list[str]], groups: list[dict[str, Any]]) -> str:
    """Write runs and groups as JSON, with null for what is no number."""
    shown = []
    for run in runs:
        row = row_of(run, settings)
        fixed = {key: row[key] for key in ("run", "state", "error", "duration_s", "samples_per_s")}
        config = {k: run.config[k] for k in settings.get(run.experiment, ()) if k in run.config}
        folder = printable(str(run.folder))
        shown.append({**fixed, "folder": folder, "metrics": run.metrics, "config": config})
    return json.dumps(finite({"runs": shown, "groups": groups}), indent=2, default=str) + "\n"


def as_csv(runs: list[Run], settings: dict[str, list[str]]) -> str:
    """Write a line for each run, and a column for each metric and each setting that differs."""
    rows = [row_of(run, settings) for run in runs]
    first = ["run", "state", "error", "duration_s", "samples_per_s"]
    metrics = sorted({name for run in runs for name in run.metrics} - {*first})
    keys = dict.fromkeys(key for several in settings.values() for key in several)
    lines = io.StringIO(newline="")
    columns = [*first, *metrics, *(key for key in keys if key not in {*first, *metrics})]
    writer = csv.DictWriter(lines, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {key: "" if value is None else value for key, value in row.items()}
        writer.writerow(
            {k: v if isinstance(v, (str, float)) else text_of(v) for k, v in cells.items()}
        )
    return lines.getvalue()


def as_tables(
    runs: list[Run], settings: dict[str, list[str]], groups: list[dict[str, Any]], first: str
) -> str:
    """Draw the runs, and below the groups, with as many metrics as there is room for.

    Args:
        runs: To be shown, in this order.
        settings: In which they differ, by experiment.
        groups: Of seeds.
        first: The column that they were sorted by, which is always shown.
    """
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    short = {name: short_names(keys) for name, keys in settings.items()}

    def changes(experiment: str, config: dict[str, Any]) -> str:
        names = short.get(experiment, {})
        return ", ".join(f"{n}={text_of(config[k])}" for k, n in names.items() if k in config)

    rows = []
    for run in runs:
        seconds, speed = run.progress.seconds, run.metrics.get("samples_per_s")
        is_killed = run.progress.error == status.KILLED
        rows.append(
            {
                "run": run.name,
                "state": f"{run.progress.state} (killed)" if is_killed else run.progress.state,
                "duration": "" if seconds is None else duration(seconds),
                "samples/s": "" if speed is None else f"{speed:,.0f}",
                DIFFERS: changes(run.experiment, run.config),
                **{name: number(value) for name, value in run.metrics.items()},
            }
        )
    metrics = ranked({name for run in runs for name in run.metrics}, first)
    around = (["run", "state"], [DIFFERS, "duration", "samples/s"])
    with console.capture() as drawn:
        draw(console, rows, metrics, *around)
        for run in runs:
            if run.progress.error not in (None, status.KILLED):
                console.print(Text(f"{run.name}: {printable(str(run.progress.error))}"))
        if groups:
            rows = []
            for group in groups:
                values = {name: spread(found) for name, found in group["metrics"].items()}
                setting = changes(group["experiment"], group["config"])
                rows.append({"experiment": group["experiment"], DIFFERS: setting, **values})
            console.print(Text("\nMean ± standard deviation over seeds (number of runs)"))
            draw(console, rows, metrics, ["experiment"], [DIFFERS])
    return "\n".join(line.rstrip() for line in drawn.get().splitlines()).strip("\n") + "\n"


def draw(
    console: Console,
    rows: list[dict[str, str]],
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
        widths = {n: max(len(n), *(len(row.get(n, "")) for row in rows)) for n in columns}
        widths[before[0]] = max(len(p) for row in rows for p in row[before[0]].split("\n"))
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


def ranked(names: Iterable[str], first: str) -> list[str]:
    """Order metrics by how much they tell: of the test, of validation, others, of training."""
    kinds = ("test/", "val/", "", "train/")

    def rank(name: str) -> tuple[bool, int, bool, str]:
        kind = next((k for k in kinds if k and name.startswith(k)), "")
        return name != first, kinds.index(kind), name.endswith("loss"), name

    return sorted((n for n in names if n == first or not n.startswith(READINGS)), key=rank)


def short_names(keys: Sequence[str]) -> dict[str, str]:
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


def text_of(value: Any) -> str:
    """Write a setting on one line: as JSON, texts without quotes."""
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return printable(text)


def printable(text: str) -> str:
    """Replace what would steer a terminal, or what no terminal can show."""
    return "".join(c if c.isprintable() else "�" for c in text)


def finite(tree: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(tree, dict):
        return {printable(str(key)): finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def write(text: str) -> None:
    """Write to standard output, as long as somebody reads it."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:  # and none when Python ends and flushes again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
