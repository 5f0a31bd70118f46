"""Evaluate a run's best checkpoint, or any checkpoint, on validation or test data."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors.bad_input import Arguments, readable
from ..options.names import check_options
from ..project import Project
from ..runs.find import add_run_arguments, check_output, find_run


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.evaluate`` with ``args``, or with the process\'s."""
    project.use()
    with readable():
        known = Arguments(prog=f"python -m {project.package}.evaluate", description=__doc__)
        add_run_arguments(known)
        known.add_argument(
            "--split", default="test", choices=("test", "val"), help="which data (default: test)"
        )
        written = "where metrics go (default: RUN/evaluation/best/SPLIT/metrics.json)"
        known.add_argument("--output", metavar="FILE", type=Path, help=written)
        known.epilog = f"All other options are those of {project.package}.train, and win."
        options, rest = known.parse_known_args(sys.argv[1:] if args is None else args)
        found = find_run(options.run, Path(options.runs_dir), options.checkpoint)
        output = options.output
        if output is not None:
            check_output(output)
        elif found.folder is not None:
            folder = found.folder / "evaluation" / found.checkpoint.stem
            output = folder / options.split / "metrics.json"
        is_configured = any(token.split("=")[0] == "--config" for token in rest)
        rest = [*found.options(needed=not is_configured), *rest]
        check_options(rest)
        from ..fit.evaluate import evaluate  # takes seconds: PyTorch and Lightning

        evaluate(found.checkpoint, options.split, rest, output)
    return 0
