"""The results of a lab, written into its pages."""

import datetime
import math
import os
import re
import statistics
from pathlib import Path

import torch

from benchmarks.report import cpu_name

from .lab import Result, Table

ROOT = Path(__file__).parent.parent
FOLDERS = {"en": ROOT / "docs" / "labs", "zh": ROOT / "docs" / "zh" / "labs"}
PLACE = re.compile(r"(?s)(<!-- results -->\n).*?(<!-- end of results -->)")
NOTE = {
    "en": "Mean ± standard deviation, n = {n}. {cores} CPU cores ({cpu}), load {load:.1f} when it "
    "began; torch {torch}; {day}; {seconds:.0f} s for all.",
    "zh": "均值 ± 标准差，n = {n}。{cores} 个 CPU 核（{cpu}），开始时负载 {load:.1f}；"  # noqa: RUF001
    "torch {torch}；{day}；总共用时 {seconds:.0f} 秒。",  # noqa: RUF001
}


def write(name: str, result: Result, seconds: float, load: float) -> None:
    """Put table, picture and circumstances between the two marks of both pages."""
    if result.picture:
        result.picture.savefig(FOLDERS["en"] / f"{name}.png", dpi=80)
    counts = {len(values) for row in result.table.values() for values in row.values()}
    about = {
        "n": max(counts),
        "cores": os.cpu_count(),
        "cpu": cpu_name(),
        "load": load,
        "torch": torch.__version__.partition("+")[0],
        "day": datetime.datetime.now(datetime.timezone.utc).date(),
        "seconds": seconds,
    }
    for language, folder in FOLDERS.items():
        page = folder / f"{name}.md"
        to_picture = os.path.relpath(FOLDERS["en"] / f"{name}.png", folder)
        picture = [f"![{name}]({to_picture})\n"] if result.picture else []
        parts = [markdown(result.table), *picture, NOTE[language].format(**about)]
        put(page, "\n".join(parts) + "\n")


def put(page: Path, results: str) -> None:
    """Replace what stands between the two marks of a page.

    Raises:
        ValueError: It has not both marks, once.
    """
    text = page.read_text("utf-8")
    text, count = PLACE.subn(lambda found: found[1] + results + found[2], text)
    if count != 1:
        raise ValueError(f"{page} has {count} places for results, where there should be one.")
    page.write_text(text, "utf-8")


def markdown(table: Table) -> str:
    """Lay out a table: a line for each row, ended by an empty line."""
    names = list(next(iter(table.values())))
    lines = [["", *names], ["---"] * (len(names) + 1)]
    lines += [[label, *map(cell, row.values())] for label, row in table.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(values: list[float]) -> str:
    """Say mean and standard deviation of those that are finite, and how many where some are not.

    Two digits of the deviation are written, and of a number alone four.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "NaN"
    mean = statistics.fmean(finite)
    spread = statistics.stdev(finite) if len(finite) > 1 else 0.0
    some = f" ({len(finite)}/{len(values)})" if len(finite) < len(values) else ""
    if not spread:
        return f"{mean:.4g}{some}"
    digits = 1 - math.floor(math.log10(spread))
    if abs(mean) >= 1e5 or digits > 5:
        return f"{mean:.2e} ± {spread:.1e}{some}"
    digits = max(digits, 0)
    return f"{mean:.{digits}f} ± {spread:.{digits}f}{some}"
