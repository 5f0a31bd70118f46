"""Predict with a trained model: image files or folders, or rows of a CSV file."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors.bad_input import Arguments, InputError, readable
from ..errors.checks import suggest
from ..project import Project
from ..runs.find import add_run_arguments, check_output, find_run

STDIN = "-"


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.predict`` with ``args``, or with the process\'s."""
    project.use()
    with readable():
        known = Arguments(prog=f"python -m {project.package}.predict", description=__doc__)
        add_run_arguments(known)
        known.add_argument(
            "inputs",
            metavar="INPUT",
            nargs="+",
            type=Path,
            help="files or folders; -: CSV from standard input",
        )
        known.add_argument("--output", metavar="FILE", type=Path, help="(default: standard output)")
        formats = ("csv", "jsonl")
        known.add_argument("--format", choices=formats, help="(default: by FILE's name, or csv)")
        known.add_argument("--top_k", type=int, default=1, help="likeliest classes (default: 1)")
        known.add_argument("--columns", help="columns of a CSV file to use, as in x1,x2")
        names = "whether the first row of a CSV file names its columns (default: auto, if no "
        names += "number is in it)"
        known.add_argument("--header", choices=("yes", "no", "auto"), help=names)
        known.add_argument("--batch_size", type=int, default=64, help="(default: 64)")
        known.add_argument(
            "--device", default="auto", help="auto: a GPU if there is one; cpu, cuda, cuda:1, mps"
        )
        known.add_argument("--config", action="append", default=[], help="for a lone .ckpt file")
        options = known.parse_args(sys.argv[1:] if args is None else args)
        for name in ("top_k", "batch_size"):
            if getattr(options, name) < 1:
                raise InputError(f"--{name} {getattr(options, name)}: is not at least 1.")
        for path in options.inputs:
            if not path.exists() and str(path) != STDIN:
                beside = [p for p in path.parent.glob("*") if p.suffix == path.suffix]
                hint = suggest(str(path), map(str, beside)).partition("Available")[0]
                if options.columns:
                    hint += "Columns are one word with commas, as in --columns x1,x2."
                raise InputError(f"INPUT {path}: there is no such file or folder. {hint}")
        if options.output is not None:
            check_output(options.output)
        options.format = options.format or format_of(options.output)
        if options.columns is not None:
            options.columns = [name.strip() for name in options.columns.split(",")]
        found = find_run(options.run, Path(options.runs_dir), options.checkpoint)
        found.options(options.config)
        from ..use.predictions import predict  # takes seconds: PyTorch and Lightning

        predict(found, options)
    return 0


def format_of(output: Path | None) -> str:
    """Tell the format of a file by its name; CSV where that says none.

    Raises:
        InputError: It says another.
    """
    suffix = "" if output is None else output.suffix.lower()
    if suffix in (".json", ".jsonl", ".ndjson"):
        return "jsonl"
    if suffix not in ("", ".csv", ".txt"):
        raise InputError(f"--output {output}: is neither .csv nor .jsonl. Give --format too.")
    return "csv"
