"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from src.train import main as train
from tests.on_gpu import any_gpu
from tests.pretended_gpu import PretendedGPU

torch.set_num_threads(1)  # tensors are tiny here, and another process may want the other core

TINY = ["--config", str(Path(__file__).with_name("tiny.yaml"))]


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


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of the tests' own experiment, not to be written to."""
    runs = tmp_path_factory.mktemp("runs")
    assert train([*TINY, "--runs_dir", str(runs), "--run_name", "run"]) == 0
    return runs / "tiny" / "run"


@pytest.fixture
def gpu() -> Iterator[PretendedGPU | None]:
    """The GPU of this machine, for which it is None, or a pretended one, which notes waits."""
    with any_gpu() as found:
        yield found
