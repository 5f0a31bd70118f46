"""Models that somebody changes as a tutorial shows train, evaluate and resume bit for bit."""

from pathlib import Path

import pytest

from tests.lightkeel.test_zoo import CASES, PARTS, failures

# A step, the optimizers and a hook of ``SupervisedModule``, and a module of Lightning's alone.
REWRITTEN = ["our_training_step", "our_optimizers", "our_epoch_end", "plain"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(failures(CASES[name], tmp_path, PARTS)) == []
