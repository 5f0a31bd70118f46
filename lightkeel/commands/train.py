"""Train a model, test its best checkpoint, and leave everything in the folder of the run."""

from collections.abc import Sequence

from ..options.names import check_options
from ..project import Project
from ..runs.output import streams_that_last
from . import command


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.train`` with ``args`` (default: the process's)."""
    with streams_that_last(), command(project, args) as given:
        check_options(given)
        from ..fit.fit import train  # takes seconds: PyTorch and Lightning

        train(given)
    return 0
