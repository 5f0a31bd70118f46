"""Train a model, test its best checkpoint, and leave everything in the folder of the run."""

import sys
from collections.abc import Sequence

from .errors import readable
from .files import streams_that_last
from .options import check_options


def main(args: Sequence[str] | None = None) -> int:
    """Run ``python -m src.train`` with ``args`` (default: the process's).

    Returns:
        The exit status, 0. Bad input exits with 2, a signal with 128 plus its number.
    """
    given = sys.argv[1:] if args is None else args
    with streams_that_last(), readable():
        check_options(given)
        from .training import train  # takes seconds: PyTorch and Lightning

        train(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
