"""Train a model, test its best checkpoint, and leave everything in the folder of the run."""

import sys
from collections.abc import Sequence

from ..errors.bad_input import readable
from ..options.names import check_options
from ..project import Project
from ..runs.files import streams_that_last


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.train`` with ``args`` (default: the process's).

    Returns:
        The exit status, 0. Bad input exits with 2, a signal with 128 plus its number.
    """
    project.use()
    given = sys.argv[1:] if args is None else args
    with streams_that_last(), readable():
        check_options(given)
        from ..fit.fit import train  # takes seconds: PyTorch and Lightning

        train(given)
    return 0
