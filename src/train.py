"""Train a model, test its best checkpoint, and leave everything in the folder of the run."""

import sys
from functools import partial

from lightkeel.commands import train

from . import PROJECT

main = partial(train.main, PROJECT)

if __name__ == "__main__":
    sys.exit(main())
