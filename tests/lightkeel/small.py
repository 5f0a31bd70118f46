"""The experiments of this project, small enough for a test: see ``lightkeel.testing``."""

from functools import partial

from lightkeel.testing import quick as testing
from lightkeel.testing.quick import (
    class_path as class_path,
    make_images as make_images,
    small as small,
)
from src import PROJECT

experiments = partial(testing.experiments, PROJECT)
