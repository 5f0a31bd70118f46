"""Go on with the random numbers of dropout and the like where a run left off."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from .. import resuming


class RandomState(Callback):
    """Keep in checkpoints the state of PyTorch's random numbers, of each device its own.

    A run that is resumed on another number of devices begins with new ones.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Tensor]] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = random_states(trainer.strategy.root_device)
        checkpoint["random_states"] = resuming.gather(trainer, states)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._states = checkpoint.get("random_states")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._states is not None and len(self._states) == trainer.world_size:
            states, device = self._states[trainer.global_rank], trainer.strategy.root_device
            torch.set_rng_state(states["cpu"])
            if device.type == "cuda" and "cuda" in states:
                torch.cuda.set_rng_state(states["cuda"], device)
        self._states = None


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Read the states of the generators of this process: (N,) uint8 each."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states
