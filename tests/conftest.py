"""What all tests share."""

import os
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)  # tensors are tiny here, and another process may want the other core


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Undo what a run leaves in the environment, such as Lightning's seed."""
    before = dict(os.environ)
    # The last are of `make test ARGS=...`, and make within a test would take them for its own.
    for name in ("PL_GLOBAL_SEED", "MAKEFLAGS", "EXTRAS", "ARGS", "ADD", "VENV"):
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)
