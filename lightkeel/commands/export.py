"""Export a trained model for use elsewhere, and compare the file with the model."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors.bad_input import Arguments, InputError
from ..project import Project
from ..runs.find import Run, add_run_arguments, check_output, find_run
from . import command

ABOUT = """\
onnx and torch (torch.export) hold the preprocessing: bytes in, probabilities out. safetensors and
paddle hold weights alone. RUN may be a .pdparams or .safetensors file with the --config of its
model: --format ckpt makes a checkpoint of it."""

# What a format is written as, and the packages it takes with the extra that installs them.
SUFFIXES = {
    "onnx": ".onnx",
    "torch": ".pt2",
    "safetensors": ".safetensors",
    "paddle": ".pdparams",
    "ckpt": ".ckpt",
}
NEEDED = {
    "onnx": ("export", ("onnx", "onnxscript", "onnxruntime")),
    "safetensors": ("export", ("safetensors",)),
    "paddle": ("paddle", ("paddle",)),
}


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.export`` with ``args`` (default: the process's)."""
    with command(project, args) as given:
        known = Arguments(prog=project.command("export"), description=__doc__, epilog=ABOUT)
        add_run_arguments(known)
        known.add_argument("--format", choices=SUFFIXES, required=True)
        default = "(default: RUN/exports/best.SUFFIX)"
        known.add_argument("--output", metavar="FILE", type=Path, help=default)
        known.add_argument("--config", action="append", default=[], help="for a lone file")
        options = known.parse_args(given)
        check_packages(options.format)
        found = find_run(options.run, Path(options.runs_dir), options.checkpoint)
        found.options(options.config)
        output = options.output or default_output(found, SUFFIXES[options.format])
        if output.resolve() == found.checkpoint.resolve():
            raise InputError(f"--output {output}: is what is exported. Choose another file.")
        if options.output is not None:
            check_output(output)
        from ..use.exports import export  # takes seconds: PyTorch and Lightning

        export(found, options.config, options.format, output, SUFFIXES[options.format])
    return 0


def check_packages(format_: str) -> None:
    """Raise ``InputError`` where a package is missing that a format takes."""
    extra, packages = NEEDED.get(format_, ("", ()))
    for package in packages:
        if find_spec(package) is None:
            raise InputError(
                f"--format {format_}: needs the package {package}, which is not installed.\n"
                f"Install it: make setup ADD={extra}"
            )


def default_output(run: Run, suffix: str) -> Path:
    """Choose where an export goes: into the run, or beside a lone file."""
    name = run.checkpoint.with_suffix(suffix).name
    return run.checkpoint.with_name(name) if run.folder is None else run.folder / "exports" / name
