"""List runs: how they got on, their metrics, and the settings in which they differ."""

import sys
from functools import partial

from lightkeel.commands import runs

from . import PROJECT

main = partial(runs.main, PROJECT)

if __name__ == "__main__":
    sys.exit(main())
