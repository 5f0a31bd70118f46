"""Find out early that a monitored metric is never logged."""

import re
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from ..errors.checks import snake_case, suggest
from .readings import is_result

OF_VALIDATION = re.compile(r"val(id(ation)?)?(?![a-z])")  # `val/loss`, but not `value_loss`


class MonitorCheck(Callback):
    """Check what callbacks and schedules monitor against what the model logs.

    Names that begin with ``val`` are checked after Lightning's validation at the start of the run,
    others when the first epoch of training is over and a validation with it. This comes after
    ``ExactResume`` among the callbacks: what was trained till then has been saved.

    Raises:
        ValueError: A monitored name is not among those logged.
    """

    def __init__(self) -> None:
        self._is_trained = self._is_validated = self._is_checked = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            check_monitors(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning's own complaint is a crash, and comes before all of an epoch has been logged.
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping):
                callback.strict = False
        for config in trainer.lr_scheduler_configs:
            config.strict = False
        check_monitors(trainer)  # schedules are known now

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_logged(trainer, of_validation=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_validated |= not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_trained = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_validated = self._is_validated or not trainer.enable_validation
        if self._is_trained and is_validated and not self._is_checked:
            self._is_checked = True
            check_logged(trainer)

    on_fit_end = on_train_epoch_start


def check_monitors(trainer: Trainer) -> None:
    """Raise ``ValueError`` for a monitored name that there will be no validation for."""
    for owner, monitor in monitors(trainer):
        if OF_VALIDATION.match(monitor) and not trainer.limit_val_batches:
            raise ValueError(
                f"{owner}.monitor: `{monitor}` is never logged without validation "
                "(trainer.limit_val_batches: 0). Monitor a metric of training."
            )


def check_logged(trainer: Trainer, of_validation: bool = False) -> None:
    """Raise ``ValueError`` for a monitored name that is not logged, or only those of validation."""
    logged = trainer.callback_metrics
    for owner, monitor in monitors(trainer):
        if monitor not in logged and (OF_VALIDATION.match(monitor) or not of_validation):
            names = {name for name in logged if is_result(name) and not name.endswith("_step")}
            hint = suggest(monitor, names, True)
            raise ValueError(f"{owner}.monitor: `{monitor}` is never logged. {hint}")


def monitors(trainer: Trainer) -> list[tuple[str, str]]:
    """List the key of each callback and schedule that monitors a metric, and its name."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found = [(f"callbacks.{snake_case(type(c).__name__)}", c) for c in callbacks]
    found += [
        ("model.lr_scheduler", c) for c in trainer.lr_scheduler_configs if c.reduce_on_plateau
    ]
    named = [(owner, getattr(part, "monitor", None)) for owner, part in found]
    return [(owner, monitor) for owner, monitor in named if monitor]
