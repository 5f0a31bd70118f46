"""Log the size of all weights."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class WeightNorm(Callback):
    """Log the Euclidean norm of all parameters at the end of each epoch.

    Args:
        name: Of the metric.
    """

    def __init__(self, name: str = "weight_norm") -> None:
        self.name = name

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        pl_module.log(self.name, weights.norm())
