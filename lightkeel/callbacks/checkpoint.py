"""Keep the best and the last state of a run."""

import re
from pathlib import Path
from typing import Any
from weakref import proxy

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..errors.checks import at_least, warn
from .direction import Mode, find_mode, unknown_mode

# What models call the loss of validation, where the shortest counts.
VALIDATION_LOSS = re.compile(r"val(id(ation)?)?[/_](total_)?loss(_epoch)?|loss/val")
PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class Checkpoint(ModelCheckpoint):
    """Write ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` in the folder of the run.

    A subclass may do so at other times: ``after_step``, ``after_validation``, ``after_epoch``.
    Weights that another callback puts in place after training, such as
    ``StochasticWeightAveraging``, are written to ``final.ckpt``.

    Args:
        monitor: Metric whose best value makes ``best.ckpt``. Where not given, the loss of
            validation if the model logs it (``val/loss``, ``val_loss``), else the last epoch counts
            as best.
        mode: Whether to minimize it (``min``) or maximize it; where not given, by the metric.
        every_n_steps: Optimizer steps between two writes of ``last.ckpt`` within an epoch.

    Attributes:
        is_validated: Whether the last validation has logged what is monitored.
        last_step: Optimizer step that ``last.ckpt`` was last written at.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Mode | None = None,
        every_n_steps: int | None = None,
    ) -> None:
        at_least(1, every_n_steps=every_n_steps)
        super().__init__(filename="best", monitor=monitor, mode=mode or "min")
        self.every_n_steps, self.last_step = every_n_steps, 0
        self.is_validated = False
        self._mode_is_open, self._monitor_is_open = mode is None, monitor is None
        self._epoch_ended = False  # and is not yet written
        self._watched: Tensor | None = None  # its value before validation
        self._final: list[Tensor] | None = None  # of the weights when validation or training ended
        self._warned = False

    def after_step(self, trainer: Trainer) -> None:
        """Write what a step is to leave, when its metrics are logged and validation is done."""
        every = self.every_n_steps
        if every and trainer.global_step // every > self.last_step // every:
            self.write_last(trainer)

    def after_validation(self, trainer: Trainer) -> None:
        """Write what a validation is to leave, while the model has the weights it was of."""
        if self.is_validated:
            self.write_best(trainer)

    def after_epoch(self, trainer: Trainer) -> None:
        """Write what an epoch is to leave, when all of it is logged and schedules have stepped."""
        if not self.is_validated:
            self.write_best(trainer)
        self.write_last(trainer)

    def write_best(self, trainer: Trainer) -> None:
        """Write ``best.ckpt`` if the monitored value is the best so far; without one, always."""
        score = trainer.callback_metrics.get(str(self.monitor))
        if self.monitor is not None:
            if score is None or not self.check_monitor_top_k(trainer, score):
                return
            worst = torch.full_like(score, torch.inf if self.mode == "min" else -torch.inf)
            score = self.kth_value = torch.where(score.isnan(), worst, score)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return  # nothing is written, so there is no best to test
        self.best_model_path = self.kth_best_model_path = self._path("best.ckpt")
        self.best_model_score = self.current_score = score
        self.best_k_models = {} if score is None else {self.best_model_path: score}
        self._write(trainer, self.best_model_path)
        for logger in trainer.loggers if trainer.is_global_zero else []:
            logger.after_save_checkpoint(proxy(self))  # W&B and MLflow may want to have it

    def write_last(self, trainer: Trainer) -> None:
        """Write ``last.ckpt`` as of now, on all ranks together."""
        self.last_step, self.last_model_path = trainer.global_step, self._path("last.ckpt")
        self._write(trainer, self.last_model_path)

    @property
    def state_key(self) -> str:
        return "Checkpoint"  # whatever it finds out to monitor

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            folder = str(Path(trainer.default_root_dir) / "checkpoints")
            self.dirpath = trainer.strategy.broadcast(folder)  # the first process alone knows it
            mode = find_mode(self.monitor or "", pl_module) if self._mode_is_open else None
            if mode:
                self.mode, self._mode_is_open = mode, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor and self._mode_is_open and not self._monitor_is_open:
            raise unknown_mode(self.monitor)
        self.last_step = trainer.global_step

    def on_train_batch_end(self, *args: Any) -> None:
        """Nothing yet: the metrics of the step have not been logged."""

    def on_between_batches(self, trainer: Trainer) -> None:
        self.after_step(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watched = trainer.callback_metrics.get(str(self.monitor))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        logged = trainer.callback_metrics
        if self.monitor is None and self._monitor_is_open:
            self.monitor = min(filter(VALIDATION_LOSS.fullmatch, logged), key=len, default=None)
        # A metric of validation is another tensor now.
        self.is_validated = logged.get(str(self.monitor)) is not self._watched
        self.after_validation(trainer)
        if not self._warned and self._is_exchanged(pl_module):
            self._warned = True
            warn(
                "best.ckpt holds other weights than were validated: a callback exchanged them in "
                "`on_validation_end`. Exchange them in `on_validation_epoch_end` of the module."
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_ended = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write_epoch(trainer, pl_module)
        if self._is_exchanged(pl_module):
            self._write(trainer, path := self._path("final.ckpt"))
            if trainer.is_global_zero:
                warn(f"a callback changed the weights after the last validation: {path} holds them")

    def write_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what an epoch that has ended is to leave, once; not of one that was broken off."""
        if self._epoch_ended and trainer.is_last_batch:
            self._epoch_ended = False
            self.after_epoch(trainer)

    on_train_epoch_start = write_epoch

    def remember_weights(self, pl_module: LightningModule) -> None:
        """Note the weights that were validated or trained, before others exchange them."""
        self._final = fingerprint(pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._monitor_is_open:
            self.monitor = state_dict["monitor"]
        # The folder may have been moved, and Lightning would forget what was best.
        best = {self._path(path): score for path, score in state_dict["best_k_models"].items()}
        state = {**state_dict, "best_k_models": best, "dirpath": self.dirpath}
        state |= {name: self._path(state[name]) for name in PATHS if state[name]}
        super().load_state_dict(state)
        self.current_score = state_dict["current_score"]

    def _is_exchanged(self, pl_module: LightningModule) -> bool:
        return self._final is not None and not same(fingerprint(pl_module), self._final)

    def _path(self, name: str) -> str:
        return str(Path(str(self.dirpath)) / Path(name).name)

    def _write(self, trainer: Trainer, path: str) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(path, weights_only=False)


def fingerprint(module: LightningModule) -> list[Tensor]:
    """Compute numbers of the weights that tell whether one has changed: norms and sums, () each."""
    parts = [p for p in (*module.parameters(), *module.buffers()) if not is_lazy(p)]
    weights: list[Tensor] = [p.detach() for p in parts if p.is_floating_point()]
    found = [of(weight) for weight in weights for of in (torch.linalg.vector_norm, torch.sum)]
    return [number.nan_to_num(-1.0) for number in found]  # NaN is not equal to itself


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Tell whether two fingerprints are equal."""
    return len(one) == len(other) and all(map(torch.equal, one, other))
