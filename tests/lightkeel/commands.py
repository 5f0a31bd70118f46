"""The commands as tests start them, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from src.train import main as train

TRAIN = ["-m", "src.train"]


def experiment(name: str) -> list[str]:
    """Options for an example as it was delivered, whatever has become of it in ``configs``."""
    return ["--config", str(Path(__file__).parent / "experiments" / f"{name}.yaml")]


def devices(number: int, strategy: str = "ddp", accelerator: str = "cpu") -> list[str]:
    """Options for as many processes."""
    chosen = {"devices": str(number), "accelerator": accelerator, "strategy": strategy}
    return [text for name, value in chosen.items() for text in (f"--trainer.{name}", value)]


TWO = devices(2)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *TRAIN]


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
    sent: list[int] = []

    def stop(self: LightningModule, *batch: Any) -> Any:
        if self.trainer.global_step == number and not sent:  # a step may have several batches
            sent.append(number)
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *batch)

    patch.setattr(model, "training_step", stop)


def survives_kills(number: int, *args: str) -> None:
    """Check that runs that were killed end as one that was not, by ``tests.lightkeel.soak``."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.lightkeel.soak", "--kills", str(number), *args],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def start(*args: str) -> subprocess.Popen[str]:
    """Start Python as a user does, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *args],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int | None = 0, timeout_s: float = 120) -> str:
    """Wait until a process, and whoever else writes where it does, has ended; return its errors.

    Args:
        process: The process.
        status: What it must end with; None: anything but 0.
        timeout_s: Seconds to wait.
    """
    try:
        _, errors = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    ok = process.returncode != 0 if status is None else process.returncode == status
    assert ok, f"status {process.returncode}: {errors}"
    return errors


def alone_and_together(args: list[str], folder: Path, *launchers: list[str]) -> tuple[Path, Path]:
    """Train in this process, and in several as a user starts them; return both runs.

    Args:
        args: Arguments of the training.
        folder: Folder for the runs.
        launchers: What starts the several: command and options, one for each machine.
    """
    assert train([*args, "--runs_dir", str(folder / "one")]) == 0
    several = [start(*words, *args, "--runs_dir", str(folder / "several")) for words in launchers]
    for process in several:
        finish(process)
    (one,) = folder.glob("one/*/*")
    (run,) = folder.glob("several/*/*")  # one folder, made by one process
    return one, run


def assert_close(first: Path, second: Path, metrics: Sequence[str] = ()) -> None:
    """Check that two runs ended with the same weights and metrics, but for rounding."""
    one, two = state(first), state(second)
    for name in {**one, **two}:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=0)
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (first, second))
    for name in metrics:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name
