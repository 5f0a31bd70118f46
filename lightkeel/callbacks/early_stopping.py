"""End training when a metric no longer improves."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

from .direction import Mode, find_mode, unknown_mode


class EarlyStopping(LightningEarlyStopping):
    """Lightning's own, which finds out by itself whether less or more of a metric is better.

    Args:
        monitor: Metric that is watched.
        mode: Whether to minimize it (``min``) or maximize it; where not given, by the metric.
        kwargs: See Lightning's ``EarlyStopping``.
    """

    def __init__(self, monitor: str, mode: Mode | None = None, **kwargs: Any) -> None:
        super().__init__(monitor=monitor, mode=mode or "min", **kwargs)
        self._mode_is_open = mode is None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        mode = find_mode(self.monitor, pl_module) if self._mode_is_open else None
        if mode and stage == "fit":
            if mode != self.mode:
                self.mode, self.min_delta = mode, -self.min_delta
                self.best_score = -self.best_score
            self._mode_is_open = False
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._mode_is_open:
            raise unknown_mode(self.monitor)
