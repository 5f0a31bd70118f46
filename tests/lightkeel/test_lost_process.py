"""A process that is gone ends the others, and the run can go on."""

import re
import signal
from pathlib import Path

import pytest
import torch

from src.train import main as train
from tests.lightkeel.commands import (
    TORCHRUN,
    TRAIN,
    TWO,
    assert_close,
    finish,
    forked_ranks,
    start,
)
from tests.lightkeel.conftest import TINY

ARGS = [*TINY, "--trainer.max_epochs", "4"]


def options_of(**settings: object) -> list[str]:
    """Options for ``Killed``."""
    named = [
        ("", "tests.lightkeel.killed.Killed"),
        *((f".{n}", str(v)) for n, v in settings.items()),
    ]
    return [text for name, value in named for text in (f"--trainer.callbacks{name}", value)]


DDP = (TRAIN, TWO, "by peer|terminated with code -9")  # what the other finds, or its observer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "launcher", "options", "message"),
    [(0, *DDP), (1, *DDP), (0, TORCHRUN, [], r"Signal 9 \(SIGKILL\) received")],
    ids=["0-ddp", "1-ddp", "0-torchrun"],
)
def test_killed_process(
    rank: int, launcher: list[str], options: list[str], message: str, tmp_path: Path
) -> None:
    killed = [*ARGS, *options, *options_of(rank=rank, step=7), "--runs_dir", str(tmp_path)]
    process = start(*launcher, *killed, "--run_name", "parts")
    assert re.search(message, finish(process, status=None, timeout_s=100))
    check_parts(tmp_path)


def test_killed_rank(tmp_path: Path) -> None:
    """Without anybody who watches them, the other ends by itself."""
    killed = [*TRAIN, *ARGS, *options_of(rank=1, step=7), "--runs_dir", str(tmp_path)]
    other, process = forked_ranks(2, *killed, "--run_name", "parts")
    finish(process, -signal.SIGKILL)
    assert "by peer" in finish(other, status=1)
    check_parts(tmp_path)


def check_parts(folder: Path) -> None:
    """Check that what is left of a run on two devices ends, on one, as one that was not killed."""
    args = [*ARGS, "--runs_dir", str(folder)]
    assert train([*args, "--run_name", "whole"]) == 0
    whole, parts = (folder / "tiny" / name for name in ("whole", "parts"))
    assert not (parts / "metrics.json").exists()  # as of a run that is done
    saved = torch.load(parts / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 6  # the end of the second epoch

    go_on = ["--resume", str(parts), "--trainer.callbacks", "null", "--runs_dir", str(folder)]
    assert train([*go_on, "--trainer.devices", "1", "--trainer.strategy", "auto"]) == 0
    assert_close(parts, whole, ["val/acc", "val/loss", "test/acc", "test/loss", "steps"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "crash", "status", "message"),
    [
        (0, "true", 1, "RuntimeError: crash"),
        (0, "false", -9, "the process of the first device is gone: ending too"),
        (1, "false", -9, "terminated with code -9"),
    ],
)
def test_processes_that_wait_for_ever(
    rank: int, crash: str, status: int, message: str, tmp_path: Path
) -> None:
    killed = options_of(rank=rank, step=4, crash=crash, stuck="true")
    process = start(*TRAIN, *TINY, *TWO, *killed, "--runs_dir", str(tmp_path))
    assert message in finish(process, status, timeout_s=100)
