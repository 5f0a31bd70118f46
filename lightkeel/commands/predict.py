"""Predict with a trained model: image files or folders, or rows of CSV, Parquet or npz files."""

from collections.abc import Sequence
from pathlib import Path

from ..errors.bad_input import Arguments, InputError
from ..errors.checks import suggest
from ..project import Project
from ..runs.find import add_run_arguments, check_output, find_run
from . import command

STDIN = "-"
COLUMNS = "columns of a table to use, as in x1,x2 (default: those of training by name, or all)"
KEEP = "other columns to copy to the output, as in id,name, or all"
HEADER = "whether the first row of a CSV file names its columns (default: auto, if no number in it)"


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.predict`` with ``args`` (default: the process's)."""
    with command(project, args) as given:
        known = Arguments(prog=project.command("predict"), description=__doc__)
        add_run_arguments(known)
        what = "files or folders; -: CSV from standard input"
        known.add_argument("inputs", metavar="INPUT", nargs="+", type=Path, help=what)
        known.add_argument("--output", metavar="FILE", type=Path, help="(default: standard output)")
        formats = ("csv", "jsonl")
        known.add_argument("--format", choices=formats, help="(default: by FILE's name, or csv)")
        known.add_argument("--top_k", type=int, default=1, help="likeliest classes (default: 1)")
        known.add_argument("--columns", help=COLUMNS)
        known.add_argument("--keep", help=KEEP)
        known.add_argument("--header", choices=("yes", "no", "auto"), help=HEADER)
        known.add_argument("--batch_size", type=int, default=64, help="(default: 64)")
        where = "auto: a GPU if there is one; cpu, cuda, cuda:1, mps"
        known.add_argument("--device", default="auto", help=where)
        known.add_argument("--config", action="append", default=[], help="for a lone .ckpt file")
        options = known.parse_args(given)
        for name in ("top_k", "batch_size"):
            if getattr(options, name) < 1:
                raise InputError(f"--{name} {getattr(options, name)}: is not at least 1.")
        for path in options.inputs:
            if not path.exists() and str(path) != STDIN:
                beside = [str(p) for p in path.parent.glob("*") if p.suffix == path.suffix]
                hint = suggest(str(path), beside).partition("Available")[0]
                if options.columns:
                    hint += "Columns are one word with commas, as in --columns x1,x2."
                raise InputError(f"INPUT {path}: there is no such file or folder. {hint}")
        if options.output is not None:
            check_output(options.output)
        options.format = options.format or _format_of(options.output)
        for name in ("columns", "keep"):
            if (given_names := getattr(options, name)) is not None:
                setattr(options, name, [part.strip() for part in given_names.split(",")])
        found = find_run(options.run, Path(options.runs_dir), options.checkpoint)
        found.options(options.config)
        from ..use.predictions import predict  # takes seconds: PyTorch and Lightning

        predict(found, options)
    return 0


def _format_of(output: Path | None) -> str:
    suffix = "" if output is None else output.suffix.lower()
    if suffix in (".json", ".jsonl", ".ndjson"):
        return "jsonl"
    if suffix not in ("", ".csv", ".txt"):
        raise InputError(f"--output {output}: is neither .csv nor .jsonl. Give --format too.")
    return "csv"
