"""The commands as tests start them, and what they leave behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_only

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


def start(*args: str) -> subprocess.Popen[str]:
    """Start Python as a user does, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *args],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def forked(*args: str, env: Mapping[str, str] | None = None, **pipes: Any) -> subprocess.Popen[str]:
    """Start a command as ``start`` does, off this process, which has imported PyTorch already.

    Args:
        args: ``-m``, the command's module and its arguments.
        env: What its environment has beside this one's.
        pipes: ``stdin``, ``stdout`` and ``stderr`` of ``subprocess.Popen``; pipes where not given.
    """

    def run() -> NoReturn:
        os.closerange(3, 1 << 12)  # of which one tells Popen that the process has begun
        os.environ.update(env or {})
        rank = int(os.environ.get("RANK", "0"))  # as it was found when Lightning was imported
        setattr(rank_zero_only, "rank", rank)  # noqa: B010 - an attribute that no type tells of
        for number, name in enumerate(("stdin", "stdout", "stderr")):  # those of pytest are others
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status: Any = 1
        try:
            module = sys.modules["__main__"] = import_module(args[1])
            sys.argv[:] = [str(module.__file__), *args[2:]]  # as Lightning starts other ranks
            status = module.main(list(args[2:]))
        except SystemExit as stop:
            status = stop.code
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        try:
            sys.stdout.flush()
        except OSError:
            status = status or 120  # as Python itself ends
        sys.stderr.flush()
        os._exit(status)

    assert args[0] == "-m"
    chosen = {**dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE), **pipes}
    return subprocess.Popen(["forked"], preexec_fn=run, restore_signals=False, text=True, **chosen)


def free_port() -> str:
    """Name a port that no process listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def forked_ranks(number: int, *args: str) -> list[subprocess.Popen[str]]:
    """Start the processes that torchrun would, without torchrun, which ends one for another."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(number)}
    meeting |= {"LOCAL_WORLD_SIZE": str(number), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "forked"}
    ranks = map(str, range(number))
    return [forked(*args, env={**meeting, "RANK": rank, "LOCAL_RANK": rank}) for rank in ranks]


def finish_ranks(number: int, *args: str) -> None:
    """Train on several devices, in processes forked off this one."""
    for process in forked_ranks(number, *TRAIN, *args):
        finish(process)


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


def alone_and_together(
    args: list[str],
    folder: Path,
    *launchers: list[str],
    ranks: int = 0,
    begin: Callable[..., subprocess.Popen[str]] = start,
) -> tuple[Path, Path]:
    """Train in this process, and in several as a user starts them; return both runs.

    Args:
        args: Arguments of the training.
        folder: Folder for the runs.
        launchers: What starts the several: command and options, one for each machine.
        ranks: How many to fork instead, to which ``launchers`` are further options.
        begin: What begins with the launchers.
    """
    assert train([*args, "--runs_dir", str(folder / "one")]) == 0
    there = ["--runs_dir", str(folder / "several")]
    if ranks:
        finish_ranks(ranks, *args, *(word for words in launchers for word in words), *there)
    else:
        for process in [begin(*words, *args, *there) for words in launchers]:
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
