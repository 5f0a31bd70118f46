"""Contenders taken in turns, and a table of what they reached."""

import os
import platform
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import lightning
import torch
from rich.console import Console
from rich.table import Table


def interleave(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Measure each contender once to warm up, then once a round: noise hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, measure in contenders.items():
            value = measure()
            if number:
                found[name].append(value)
            print(f"round {number}/{rounds}  {name}  {value:,.4g}", flush=True)
    return found


def machine() -> str:
    """Describe what a figure was measured on."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f"{os.cpu_count()} CPU cores, {cpu_name()}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{device}; {versions}, Lightning {lightning.__version__}"


def cpu_name() -> str:
    """Name the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def show(title: str, found: Mapping[str, list[float]], base: str) -> None:
    """Print least, median and greatest of each contender, and its ratio to ``base``.

    The ratio is the median of those of the rounds: within one, both had the same machine.
    """
    table = Table(title=f"{title}\n{machine()}", title_justify="left")
    for name in ("contender", "least", "median", "greatest", f"to {base}", "n"):
        table.add_column(name, justify="left" if name == "contender" else "right")
    for name, values in found.items():
        ratios = [value / other for value, other in zip(values, found[base], strict=True)]
        spread = (min(values), statistics.median(values), max(values))
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        table.add_row(name, *(f"{v:,.4g}" for v in spread), ratio, str(len(values)))
    Console(width=100).print(table)
