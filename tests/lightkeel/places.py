"""Where the project under test is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from src import PROJECT

ROOT = PROJECT.root
CONFIGS = PROJECT.configs
PACKAGE = PROJECT.folder
DEFAULT_CONFIG = str(PROJECT.default_config)


def common(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a folder that the processes of pytest-xdist have together."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder to this process, as others do."""
    with (folder / "lock").open("w") as file:
        flock(file, LOCK_EX)
        yield
