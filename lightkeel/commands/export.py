"""Export a trained model for use elsewhere, and compare the file with the model."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors.bad_input import Arguments, InputError
from ..project import Project
from ..runs.find import add_run_arguments, check_output, find_run
from . import command

ABOUT = """\
onnx and torch (torch.export) hold the preprocessing: samples in, probabilities out. safetensors and
paddle hold weights alone. RUN may be a .pdparams or .safetensors file with the --config of its
model: --format ckpt makes a checkpoint of it."""

# What a format is written as, the packages it takes, and the extra that installs them.
FORMATS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "onnx": (".onnx", ("onnx", "onnxscript", "onnxruntime"), "export"),
    "torch": (".pt2", (), ""),
    "safetensors": (".safetensors", ("safetensors",), "export"),
    "paddle": (".pdparams", ("paddle",), "paddle"),
    "ckpt": (".ckpt", (), ""),
}


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.export`` with ``args`` (default: the process's)."""
    with command(project, args) as given:
        known = Arguments(prog=project.command("export"), description=__doc__, epilog=ABOUT)
        add_run_arguments(known)
        known.add_argument("--format", choices=FORMATS, required=True)
        default = "(default: RUN/exports/best.SUFFIX)"
        known.add_argument("--output", metavar="FILE", type=Path, help=default)
        known.add_argument("--config", action="append", default=[], help="for a lone file")
        options = known.parse_args(given)
        suffix, packages, extra = FORMATS[options.format]
        for package in packages:
            if find_spec(package) is None:
                raise InputError(
                    f"--format {options.format}: needs the package {package}, which is not "
                    f"installed.\nInstall it: make setup ADD={extra}"
                )
        found = find_run(options.run, Path(options.runs_dir), options.checkpoint)
        found.options(options.config)
        folder = found.folder / "exports" if found.folder else found.checkpoint.parent
        output = options.output or folder / f"{found.checkpoint.stem}{suffix}"
        if output.resolve() == found.checkpoint.resolve():
            raise InputError(f"--output {output}: is what is exported. Choose another file.")
        if options.output is not None:
            check_output(output)
        from ..use.exports import export  # takes seconds: PyTorch and Lightning

        export(found, options.config, options.format, output, suffix)
    return 0
