"""Bad input, said in a few lines, and the statuses that commands exit with.

Nothing slow is imported here; ``explain`` knows the errors of PyTorch, Lightning and the parser.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

STATUS_BAD_INPUT = 2
STATUS_INTERRUPTED = 130


class InputError(Exception):
    """Bad input, said as one to three lines for the person who gave it."""


@contextmanager
def readable() -> Iterator[None]:
    """Print an ``InputError`` as at most three lines on standard error and exit with status 2.

    All else is a crash and keeps its traceback, but for Ctrl-C.
    """
    try:
        yield
    except InputError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print("error: " + "\n  ".join(lines[:3]), file=sys.stderr, flush=True)
        raise SystemExit(STATUS_BAD_INPUT) from error
    except KeyboardInterrupt:
        raise SystemExit(STATUS_INTERRUPTED) from None
