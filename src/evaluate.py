"""Evaluate a run's best checkpoint, or any checkpoint, on validation or test data."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import run
from .cli import ProjectCLI
from .errors import InputError, readable


def main(args: Sequence[str] | None = None) -> int:
    """Run ``python -m src.evaluate`` with ``args``, or with the process's."""
    with readable():
        known = Arguments(prog="python -m src.evaluate", description=__doc__)
        known.add_argument("run", metavar="RUN", help="a run folder, a .ckpt file, or `last`")
        known.add_argument("--split", default="test", help="test (default) or val")
        known.add_argument("--runs_dir", default="runs", help="where `last` looks (default: runs)")
        known.epilog = "All other options are those of src.train, and win."
        options, rest = known.parse_known_args(sys.argv[1:] if args is None else args)
        if options.split not in ("val", "test"):
            raise InputError(f"--split {options.split}: is no split. Use `test` or `val`.")
        found = run.find_run(options.run, Path(options.runs_dir))
        evaluate(found, options.split, rest)
    return 0


class Arguments(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. See {self.prog} --help.")


def evaluate(found: run.Run, split: str, args: list[str]) -> None:
    """Print the metrics of a checkpoint on a split, with settings from its run and ``args``."""
    checkpoint = run.load_checkpoint(found.checkpoint)
    if found.folder is not None:
        args = ["--config", str(found.folder / "config.yaml"), *args]
    elif not any(token.startswith("--config") for token in args):
        raise InputError(
            f"RUN {found.checkpoint}: has no config.yaml beside it. Give the --config it was "
            "trained with."
        )
    cli = ProjectCLI(args, training=False)
    run.check_matches(found.checkpoint, checkpoint, cli.model)
    cli.check_fit()
    cli.model.load_state_dict(checkpoint["state_dict"])
    loop = cli.trainer.test if split == "test" else cli.trainer.validate
    (metrics,) = loop(cli.model, datamodule=cli.datamodule, verbose=False) or [{}]
    if cli.trainer.is_global_zero:
        rows = [(name, run.format_value(value)) for name, value in sorted(metrics.items())]
        run.print_table(f"{split} split", [*rows, ("checkpoint", str(found.checkpoint))])


if __name__ == "__main__":
    sys.exit(main())
