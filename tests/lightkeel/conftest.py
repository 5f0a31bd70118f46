"""What the tests of the library share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.train import main as train
from tests.lightkeel.on_gpu import any_gpu
from tests.lightkeel.pretended_gpu import PretendedGPU

# As in an environment that is entered: messages name `python`.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
TINY = ["--config", str(Path(__file__).with_name("tiny.yaml"))]


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
