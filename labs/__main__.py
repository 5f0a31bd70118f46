"""Run labs, print their tables, and write them into ``docs/labs`` and ``docs/zh/labs``.

python -m labs NAME     one lab, in less than two minutes on two CPU cores
python -m labs          the names there are
python -m labs --all    all of them
python -m labs NAME --quick    a tiny budget: that it works, no result, and pages stay as they are
"""

import argparse
import os
import time
from collections.abc import Sequence

from .page import markdown, write
from .registry import LABS


def main(args: Sequence[str] | None = None) -> int:
    """Run ``python -m labs`` with ``args`` (default: the process's)."""
    parser = argparse.ArgumentParser("python -m labs", description="What each idea is worth.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(LABS))
    parser.add_argument("--all", action="store_true", help="run all of them")
    parser.add_argument("--quick", action="store_true", help="a tiny budget, pages untouched")
    given = parser.parse_args(args)
    if unknown := [name for name in given.names if name not in LABS]:
        parser.exit(2, f"error: {unknown[0]}: is no lab. Use one of {', '.join(LABS)}.\n")
    names = list(LABS) if given.all else given.names
    if not names:
        print("\n".join(LABS))
    for name in names:
        load, begin = os.getloadavg()[0], time.perf_counter()
        result = LABS[name].results(given.quick)
        print(f"\n{name}\n\n{markdown(result.table)}", flush=True)
        if not given.quick:
            write(name, result, time.perf_counter() - begin, load)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
