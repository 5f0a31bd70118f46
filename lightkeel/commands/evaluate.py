"""Evaluate a run's best checkpoint, or any checkpoint, on validation or test data.

The exit status is 3 where a metric misses a threshold.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from ..errors.bad_input import Arguments, InputError
from ..errors.checks import suggest
from ..options.names import check_options
from ..project import Project
from ..runs.files import to_json
from ..runs.find import add_run_arguments, check_output, find_run
from ..runs.output import format_value, write_out
from . import command

MISSED = 3
THRESHOLDS = {
    "--min": "least value of a metric, as in test/acc=0.7",
    "--max": "greatest value of a metric, as in test/loss=1.0",
}


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.evaluate`` with ``args`` (default: the process's)."""
    with command(project, args) as given:
        known = Arguments(prog=project.command("evaluate"), description=__doc__)
        known.epilog = f"All other options are those of {project.command('train')}, and win."
        add_run_arguments(known)
        splits, which = ("test", "val"), "which data (default: test)"
        known.add_argument("--split", default="test", choices=splits, help=which)
        written = "where metrics go (default: RUN/evaluation/best/SPLIT/metrics.json)"
        known.add_argument("--output", metavar="FILE", type=Path, help=written)
        for name, what in THRESHOLDS.items():
            add: dict[str, Any] = {"action": "append", "default": [], "type": partial(_limit, name)}
            known.add_argument(name, metavar="METRIC=VALUE", help=f"{what}; repeatable", **add)
        only = "write metrics to standard output as JSON, and all else to standard error"
        known.add_argument("--json", action="store_true", help=only)
        options, rest = known.parse_known_args(given)
        found = find_run(options.run, Path(options.runs_dir), options.checkpoint)
        output = options.output
        if output is not None:
            check_output(output)
        elif found.folder is not None:
            folder = found.folder / "evaluation" / found.checkpoint.stem
            output = folder / options.split / "metrics.json"
        is_configured = any(token.split("=")[0] == "--config" for token in rest)
        rest = [*found.options(needed=not is_configured), *rest]
        check_options(rest, [*vars(options)])
        from ..fit.evaluate import evaluate  # takes seconds: PyTorch and Lightning

        with redirect_stdout(sys.stderr) if options.json else nullcontext():
            metrics = evaluate(found.checkpoint, options.split, rest, output)
        if metrics is None:  # on another device than the first
            return 0
        if options.json:
            write_out(to_json(metrics))
        limits = [*options.min, *options.max]
        missed = [line for limit in limits if (line := _missed(metrics, *limit))]
        for line in missed:
            print(line, file=sys.stderr, flush=True)
    return MISSED if missed else 0


def _limit(option: str, given: str) -> tuple[str, str, float]:
    name, _, text = given.rpartition("=")
    try:
        limit = float(text)
    except ValueError:
        limit = float("nan")
    if not name or limit != limit:
        raise InputError(f"{option} {given}: is no METRIC=VALUE, as in test/acc=0.7.")
    return option, name, limit


def _missed(metrics: Mapping[str, Any], option: str, name: str, limit: float) -> str | None:
    """Say how a metric misses a threshold; None: it does not."""
    known = {name: value for name, value in metrics.items() if isinstance(value, float)}
    if name not in known:
        raise InputError(f"{option} {name}: no such metric. {suggest(name, known, True)}")
    shown = format_value(known[name])  # what is compared: 0.7 in float32 is less than 0.7
    sign, how = (1, "least") if option == "--min" else (-1, "most")
    if sign * float(shown) >= sign * limit:
        return None
    return f"missed: {name} is {shown}, not at {how} {limit:g} ({option})"
