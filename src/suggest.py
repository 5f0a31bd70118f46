"""Say what was probably meant."""

import difflib
from collections.abc import Iterable


def suggest(name: str, choices: Iterable[str]) -> str:
    """Ask whether the nearest of ``choices`` was meant, or list them all, as a sentence."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, 1, 0.5)
    if near:
        return f"Did you mean `{near[0]}`?"
    return f"Available: {', '.join(known)}." if known else ""
