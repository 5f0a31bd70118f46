"""What a run leaves behind in the process of the tests."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def restored_environment() -> Iterator[None]:
    """Undo what a run leaves in the environment, such as Lightning's seed."""
    before = dict(os.environ)
    os.environ.pop("PL_GLOBAL_SEED", None)
    yield
    os.environ.clear()
    os.environ.update(before)
