"""Evaluate a run's best checkpoint, or any checkpoint, on validation or test data."""

from collections.abc import Sequence
from pathlib import Path

from ..errors.bad_input import Arguments
from ..options.names import check_options
from ..project import Project
from ..runs.find import add_run_arguments, check_output, find_run
from . import command


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

        evaluate(found.checkpoint, options.split, rest, output)
    return 0
