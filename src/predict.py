"""Predict with a trained model: image files or folders, or rows of a CSV file."""

import sys
from functools import partial

from lightkeel.commands import predict

from . import PROJECT

main = partial(predict.main, PROJECT)

if __name__ == "__main__":
    sys.exit(main())
