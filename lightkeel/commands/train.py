"""Train a model, test its best checkpoint, and leave everything in the folder of the run."""

from collections.abc import Sequence

from ..options import cache
from ..options.names import check_options
from ..options.overview import HELP, choices, first_page
from ..project import Project
from ..runs.output import streams_that_last, write_out
from . import command


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.train`` with ``args`` (default: the process's)."""
    with streams_that_last(), command(project, args) as given:
        if "--list" in given and (known := cache.read()):
            write_out(choices(known))
            return 0
        if not HELP.isdisjoint(given) and given[-2:] != ["--help", "all"]:
            write_out(first_page(given, str(__doc__)))
            return 0
        check_options(given)
        from ..fit.fit import train  # takes seconds: PyTorch and Lightning

        train(given)
    return 0
