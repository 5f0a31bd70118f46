"""End a run at a signal, after saving."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from .checkpoint import Checkpoint, fingerprint, same

AGREE_EVERY = 10  # steps: each agreement makes the devices wait for one another
# Names of signals, as not every system has each, to exit statuses. SLURM warns by SIGUSR1.
STATUSES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143, "SIGHUP": 129}

TOLD = b"stopping after this step; once more to stop at once\n"


class GracefulStop(Callback):
    """At Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP finish the step, write ``last.ckpt``, and exit.

    In validation the batch is finished, and validation begins anew when the run is resumed. A
    second signal ends the process at once. Several devices agree on where to stop: after the next
    step that ``AGREE_EVERY`` divides, or the next batch of validation.
    """

    def __init__(self) -> None:
        self._received = self._process = 0  # exit status, by a signal; whom it is for
        self._step = 0
        self._weights: list[torch.Tensor] = []  # those that validation was begun with

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step, self._process = trainer.global_step, os.getpid()
        for number in heeded():
            signal.signal(number, self._receive)  # Lightning restores them

    def on_between_batches(self, trainer: Trainer) -> None:
        """Leave if asked to, once all that belongs to the step is done; see ``ExactResume``."""
        # Between two batches of an accumulation window there is nothing that could be resumed.
        before, self._step = self._step, trainer.global_step
        is_due = self._received if trainer.world_size == 1 else self._step % AGREE_EVERY == 0
        if is_due and self._step != before and (status := self._agreed(trainer)):
            save_and_exit(trainer, status)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._weights = fingerprint(pl_module) if trainer.state.fn == "fit" else []

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            status = self._agreed(trainer)
            # Where averages are in the place of the weights, for EMA: after validation.
            if status and same(fingerprint(pl_module), self._weights):
                save_and_exit(trainer, status)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if status := self._agreed(trainer):  # the epoch before has been saved
            raise SystemExit(status)

    on_fit_end = on_train_epoch_start

    def _agreed(self, trainer: Trainer) -> int:
        if trainer.world_size == 1:
            return self._received
        mine = torch.tensor(float(self._received), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(mine, reduce_op="max"))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = STATUSES[signal.Signals(number).name]
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() == self._process:  # and not a worker of a loader, forked off
            # Not by `print`: a signal may come while the progress bar is written, and Python's
            # streams cannot be entered twice.
            with suppress(OSError):
                os.write(2, TOLD)


class Stopped(KeyboardInterrupt):
    """As at Ctrl-C, for another signal, with the exit status."""


@contextmanager
def exits_at_signals() -> Iterator[None]:
    """Exit at once with such a status where there is nothing to save; Ctrl-C is left to Python."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(STATUSES[signal.Signals(number).name])

    before = {number: signal.getsignal(number) for number in heeded() if number != signal.SIGINT}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except Stopped as stopped:
        raise SystemExit(stopped.args[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def heeded() -> list[signal.Signals]:
    """List the signals to stop at: those that the system has, and SIGHUP unless under nohup."""
    if threading.current_thread() is not threading.main_thread():
        return []  # they are for the main thread alone
    known = [signal.Signals[name] for name in STATUSES if name in signal.Signals.__members__]
    return [n for n in known if n.name != "SIGHUP" or signal.getsignal(n) != signal.SIG_IGN]


def save_and_exit(trainer: Trainer, status: int) -> None:
    """Write ``last.ckpt``, unless that is switched off, and exit."""
    for checkpoint in trainer.checkpoint_callbacks:
        if isinstance(checkpoint, Checkpoint):
            checkpoint.write_last(trainer)
    raise SystemExit(status)
