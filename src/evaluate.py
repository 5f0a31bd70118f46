"""Evaluate a run's best checkpoint, or any checkpoint, on validation or test data."""

import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import Arguments, InputError, readable
from .find import find_run
from .options import check_options


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
        found = find_run(options.run, Path(options.runs_dir))
        if found.folder is not None:
            rest = ["--config", str(found.folder / "config.yaml"), *rest]
        elif not any(token.startswith("--config") for token in rest):
            raise InputError(
                f"RUN {found.checkpoint}: has no config.yaml beside it. Give the --config it was "
                "trained with."
            )
        check_options(rest)
        from .evaluation import evaluate  # takes seconds: PyTorch and Lightning

        evaluate(found.checkpoint, options.split, rest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
