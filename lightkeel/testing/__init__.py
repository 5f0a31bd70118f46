"""Tests of any project's configs and models, for its own ``tests``; needs pytest."""

import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from unittest.mock import patch

import pytest


@pytest.fixture(autouse=True)
def restored_environment() -> Iterator[None]:
    """Undo what a run leaves in the environment, such as its seed: for a ``conftest.py``."""
    with patch.dict(os.environ):
        os.environ.pop("PL_GLOBAL_SEED", None)
        yield


def __getattr__(name: str) -> Any:  # PyTorch is not imported where pytest-xdist hands out tests
    return getattr(import_module(".contract", __name__), name)
