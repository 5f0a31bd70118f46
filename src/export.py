"""Export a trained model for use elsewhere, and compare the file with the model."""

import sys
from functools import partial

from lightkeel.commands import export

from . import PROJECT

main = partial(export.main, PROJECT)

if __name__ == "__main__":
    sys.exit(main())
