"""Runs on a GPU: that of the machine, or where it has none, a pretended one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from src.train import main as train
from tests.lightkeel.commands import stop_in_step
from tests.lightkeel.pretended_gpu import PretendedGPU, pretended_gpu
from tests.lightkeel.soak import content, differences


@contextmanager
def any_gpu() -> Iterator[PretendedGPU | None]:
    """Use the GPU of this machine (then the value is None), or a pretended one."""
    if torch.cuda.is_available():
        try:
            yield None
        finally:
            torch.use_deterministic_algorithms(False)  # a run may have asked for them
    else:
        with pretended_gpu() as pretended:
            yield pretended


class Waits(Callback):
    """Note how often the host had waited when a batch began, by epoch and optimizer steps."""

    gpu: ClassVar[PretendedGPU]
    so_far: ClassVar[dict[tuple[int, int], int]]

    @classmethod
    def watch(cls, gpu: PretendedGPU) -> list[str]:
        """Return options that have a run watched."""
        cls.gpu, cls.so_far = gpu, {}
        return ["--trainer.callbacks+", f"{__name__}.Waits"]

    @classmethod
    def in_steps(cls, log_every: int, is_due: bool) -> list[Any]:
        """List waits in steps whose row of metrics is due, or is not.

        Of an epoch, its first step, which is shown in pictures, and its last are left out.
        """
        return [
            wait
            for (epoch, step), before in cls.so_far.items()
            if (epoch, step - 1) in cls.so_far and (epoch, step + 1) in cls.so_far
            if ((step + 1) % log_every == 0) == is_due
            for wait in cls.gpu.waits[before : cls.so_far[epoch, step + 1]]
        ]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.so_far[trainer.current_epoch, trainer.global_step] = len(self.gpu.waits)


class Work(Callback):
    """Note how much the device had done when a batch began: operations and waits."""

    gpu: ClassVar[PretendedGPU]
    so_far: ClassVar[list[tuple[int, int]]]

    def on_train_batch_start(self, *args: Any) -> None:
        self.so_far.append((len(self.gpu.operations), len(self.gpu.waits)))


class Calls(Callback):
    """Note how many functions were called from one batch to the next, those of C too."""

    so_far: ClassVar[list[int]]
    number = 0

    def count(self, frame: Any, event: str, argument: Any) -> None:
        self.number += event in ("call", "c_call")

    def on_train_batch_start(self, *args: Any) -> None:
        sys.setprofile(None)
        self.so_far.append(self.number)
        self.number = 0
        sys.setprofile(self.count)

    def on_train_epoch_end(self, *args: Any) -> None:
        sys.setprofile(None)


def resumed_like_whole(
    args: list[str], folder: Path, model: type[LightningModule], step: int
) -> list[str]:
    """Stop a run in an optimizer step and resume it; name what differs from a whole run."""
    whole, stopped = ([*args, "--runs_dir", str(folder / name)] for name in ("whole", "stopped"))
    assert train(whole) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_in_step(model, step, patch)
        with pytest.raises(SystemExit, match="143"):
            train(stopped)
    assert train([*stopped, "--resume", "auto"]) == 0
    (one,), (other,) = ((folder / name).glob("*/*") for name in ("whole", "stopped"))
    return differences(content(one), content(other))
