"""The commands as tests start them, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from src.train import main as train

TRAIN = ["-m", "src.train"]
TWO = ["--trainer.devices", "2", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"]


def state(run: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    """Read the weights in a checkpoint of a run."""
    checkpoint = torch.load(run / "checkpoints" / name, weights_only=True)
    loaded: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return loaded


def same(first: Path, second: Path) -> bool:
    """Tell whether two runs ended with the same weights, bit for bit."""
    one, two = state(first), state(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def fails(
    main: Callable[[list[str]], int],
    args: Iterable[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Check that a command refuses its arguments with ``message``, in at most three lines."""
    with pytest.raises(SystemExit) as exit_:
        main(list(args))
    printed = capsys.readouterr()
    assert exit_.value.code == 2
    assert len(printed.err.splitlines()) <= 3
    if message.endswith("…"):  # the rest comes from a library
        assert printed.err.startswith(f"error: {message[:-1]}")
    else:
        assert printed.err == f"error: {message}\n"


def stop_in_step(model: type[LightningModule], number: int, patch: pytest.MonkeyPatch) -> None:
    """Have optimizer step ``number``, from 0, of a model send SIGTERM to this process."""
    step: Any = model.training_step

    def stop(self: LightningModule, *batch: Any) -> Any:
        if self.trainer.global_step == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *batch)

    patch.setattr(model, "training_step", stop)


def survives_kills(number: int, *args: str) -> None:
    """Check that runs that were killed end as one that was not, by ``tests.soak``."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--kills", str(number), *args],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def alone_and_together(
    args: list[str], folder: Path, launcher: list[str], options: list[str]
) -> tuple[Path, Path]:
    """Train in this process, and in two as a user starts them; return both runs."""
    assert train([*args, "--runs_dir", str(folder / "one")]) == 0
    done = subprocess.run(
        [sys.executable, *launcher, *args, *options, "--runs_dir", str(folder / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (one,) = folder.glob("one/*/*")
    (two,) = folder.glob("two/*/*")  # one folder, made by one process
    return one, two


def assert_close(first: Path, second: Path, metrics: list[str]) -> None:
    """Check that two runs ended with the same weights and metrics, but for rounding."""
    one, two = state(first), state(second)
    for name in {**one, **two}:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=0)
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (first, second))
    for name in metrics:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name
