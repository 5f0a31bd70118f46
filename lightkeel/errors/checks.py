"""Refuse values that cannot work, say what was probably meant, and name things as options do."""

import difflib
import os
import re
import sys
from collections.abc import Iterable
from functools import cache


def suggest(name: str, choices: Iterable[str], always_list: bool = False) -> str:
    """Ask whether the nearest of ``choices`` was meant, and list them where none is near."""
    known = sorted(" ".join(choice.split()) for choice in choices)  # on one line
    near = difflib.get_close_matches(name, known, 1, 0.5)
    said = [f"Did you mean `{near[0]}`?"] if near else []
    said += [f"Available: {', '.join(known) or 'none'}."] if always_list or not near else []
    return " ".join(said)


def warn(text: str) -> None:
    """Say on standard error what a person should know, where it is no reason to end."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


@cache
def note(text: str) -> None:
    """Say once, on standard error, what was chosen where a person left it open."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


def at_least(least: int, **values: float | None) -> None:
    """Raise ``ValueError`` for the first named value that is given and less than ``least``."""
    for name, value in values.items():
        if value is not None and value < least:
            raise ValueError(f"{name}: {value} is not at least {least}.")


def check_share(**values: float) -> None:
    """Raise ``ValueError`` for the first named value that is not in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}: {value} is not in [0, 1).")


def snake_case(name: str) -> str:
    """Turn ``GradientClipping`` into ``gradient_clipping``, ``LRMonitor`` into ``lr_monitor``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
