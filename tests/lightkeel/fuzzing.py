"""Cases by the hundred, and what may come of each: status 0, or status 2 and three lines."""

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

# A handful in each run of the tests; `-m fuzz` makes as many as FUZZ_EXAMPLES says.
FEW = 3
MANY = int(os.environ.get("FUZZ_EXAMPLES", "1000"))
few_and_many = pytest.mark.parametrize(
    "examples", [FEW, pytest.param(MANY, marks=pytest.mark.fuzz)], ids=["few", "many"]
)


def fuzz(check: Callable[[Any], None], cases: st.SearchStrategy[Any], examples: int) -> None:
    """Check many cases; the few are the same ones each time."""
    options: Any = {"derandomize": True} if examples == FEW else {"print_blob": True}
    chosen = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **options,
    )
    chosen(given(cases)(check))()


def outcome(main: Callable[[Sequence[str]], int], args: Sequence[str]) -> int:
    """Run a command; return its status once it is known to be no crash."""
    out, err = io.StringIO(), io.StringIO()
    environment = dict(os.environ)
    status: Any
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            status = main(list(args))
        except SystemExit as exit_:
            status = exit_.code
    os.environ.clear()
    os.environ.update(environment)
    assert status in (0, None, 2), (status, err.getvalue())
    lines = err.getvalue().splitlines()
    if status == 2:
        assert lines[0].startswith("error: "), lines
        assert len(lines) <= 3, lines
        assert "Traceback" not in err.getvalue()
    return status or 0


def check_files(folder: Path) -> None:
    """Check that no file in a folder was left in part."""
    for path in folder.rglob("*"):
        assert path.suffix not in (".part", ".tmp"), path
        if path.suffix == ".ckpt":
            torch.load(path, weights_only=True)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Flip bits of a file, or cut it, or both."""

    def damage(flips: list[tuple[int, int]], end: int) -> bytes:
        changed = bytearray(content)
        for place, bit in flips:
            changed[place] ^= 1 << bit
        return bytes(changed[:end])

    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 7))
    whole, cut = st.just(len(content)), st.integers(0, len(content))
    return st.builds(damage, st.lists(places, min_size=1, max_size=4), whole | whole | cut)
