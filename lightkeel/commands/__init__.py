"""The commands: arguments only, PyTorch is imported once they are checked."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors.bad_input import readable
from ..project import Project


@contextmanager
def command(project: Project, args: Sequence[str] | None) -> Iterator[list[str]]:
    """Have a project at work and bad input said in few lines; yields ``args`` or the process's."""
    project.use()
    with readable():
        yield list(sys.argv[1:] if args is None else args)
