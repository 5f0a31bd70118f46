"""The experiments of this project, small enough for a test: see ``lightkeel.testing``."""

from functools import partial

from lightkeel.testing import contract
from lightkeel.testing.contract import (
    class_path as class_path,
    make_images as make_images,
    small as small,
)
from src import PROJECT

experiments = partial(contract.experiments, PROJECT)
