"""Evaluate a run's best checkpoint, or any checkpoint, on validation or test data."""

import sys
from functools import partial

from lightkeel.commands import evaluate

from . import PROJECT

main = partial(evaluate.main, PROJECT)

if __name__ == "__main__":
    sys.exit(main())
