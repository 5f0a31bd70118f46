"""A process that is gone ends the others, and the run can go on."""

import re
from pathlib import Path

import pytest
import torch

from src.train import main as train
from tests.commands import TORCHRUN, TRAIN, TWO, assert_close, finish, start
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("launcher", "options", "message"),
    [
        (TRAIN, TWO, "by peer|terminated with code -9"),  # what the other finds, or its observer
        pytest.param(TORCHRUN, [], r"Signal 9 \(SIGKILL\) received", marks=pytest.mark.slow),
    ],
    ids=["ddp", "torchrun"],
)
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_killed_process(
    rank: int, launcher: list[str], options: list[str], message: str, tmp_path: Path
) -> None:
    args = [*TINY, "--trainer.max_epochs", "4", "--runs_dir", str(tmp_path)]
    assert train([*args, "--run_name", "whole"]) == 0
    whole, parts = (tmp_path / "tiny" / name for name in ("whole", "parts"))

    killed = {"callbacks": "tests.killed.Killed", "callbacks.rank": rank, "callbacks.step": 7}
    when = [text for name, value in killed.items() for text in (f"--trainer.{name}", str(value))]
    process = start(*launcher, *args, *options, *when, "--run_name", "parts")
    assert re.search(message, finish(process, status=None, timeout_s=60))
    assert not (parts / "metrics.json").exists()  # as of a run that is done
    saved = torch.load(parts / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 6  # the end of the second epoch

    go_on = ["--resume", str(parts), "--trainer.callbacks", "null", "--runs_dir", str(tmp_path)]
    assert train([*go_on, "--trainer.devices", "1", "--trainer.strategy", "auto"]) == 0
    assert_close(parts, whole, ["val/acc", "val/loss", "test/acc", "test/loss", "steps"])
