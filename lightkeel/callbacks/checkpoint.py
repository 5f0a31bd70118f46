"""Keep the best and the last state of a run."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..errors.checks import at_least, warn
from .direction import Mode, find_mode

# What models call the loss of validation, ours first.
VALIDATION_LOSSES = (
    *("val/loss", "val_loss", "valid/loss", "valid_loss", "validation/loss", "validation_loss"),
    *("val/loss_epoch", "val_loss_epoch", "loss/val", "val/total_loss", "val_total_loss"),
)
PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class Checkpoint(ModelCheckpoint):
    """Write ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` in the folder of the run.

    ``best.ckpt`` is written when validation ends, so that it holds the weights that were validated;
    for a metric of training, when the epoch ends. Lightning's own writes ``last`` only when a
    better state was found; here it is written after every epoch, when all of it has been logged,
    and every ``every_n_steps`` within, for which ``ExactResume`` is needed. Weights that another
    callback puts in place after training, such as ``StochasticWeightAveraging``, are written to
    ``final.ckpt``.

    Args:
        monitor: Metric whose best value makes ``best.ckpt``. Where not given, the loss of
            validation if the model logs it (``val/loss``, ``val_loss``), else the last epoch counts
            as best.
        mode: Whether to minimize it (``min``) or maximize it; where not given, by the metric.
        every_n_steps: Optimizer steps between two writes of ``last.ckpt`` within an epoch.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Mode | None = None,
        every_n_steps: int | None = None,
    ) -> None:
        at_least(1, every_n_steps=every_n_steps)
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode or "min",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.every_n_steps = every_n_steps
        self._mode_is_open = mode is None
        self._monitor_is_open = monitor is None
        self._last_saved_step = 0
        self._epoch_ended = False  # and is not yet written
        self._watched: Tensor | None = None  # its value before validation
        self._final: list[Tensor] = []  # of the weights when validation or training ended
        self._warned = False

    @property
    def state_key(self) -> str:
        return "Checkpoint"  # whatever it finds out to monitor

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self.choose_mode(pl_module)
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def choose_mode(self, model: LightningModule) -> None:
        """Find out whether to minimize what is monitored, unless that was given."""
        if self._mode_is_open and self.monitor is not None:
            mode = find_mode(self.monitor, model)
            if mode != self.mode:
                self.mode, self.kth_value = mode, -self.kth_value
            self._mode_is_open = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Nothing yet: the metrics of the step have not been logged."""

    def on_between_batches(self, trainer: Trainer) -> None:
        """Write ``last.ckpt`` where ``every_n_steps`` says so; see ``ExactResume``."""
        step = trainer.global_step
        if self.every_n_steps and step // self.every_n_steps > (
            self._last_saved_step // self.every_n_steps
        ):
            self.write_last(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watched = trainer.callback_metrics.get(str(self.monitor))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor is None and self._monitor_is_open:
            logged = trainer.callback_metrics
            self.monitor = next((name for name in VALIDATION_LOSSES if name in logged), None)
        # A metric of validation is another tensor now.
        is_validated = trainer.callback_metrics.get(str(self.monitor)) is not self._watched
        self._save_on_train_epoch_end = False if is_validated else None
        super().on_validation_end(trainer, pl_module)
        if self._final and not self._warned and not same(fingerprint(pl_module), self._final):
            self._warned = True
            warn(
                "best.ckpt holds other weights than were validated: a callback exchanged them in "
                "`on_validation_end`. Exchange them in `on_validation_epoch_end` of the module."
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Nothing is written yet: schedules by epoch have not been stepped, nor all been logged.
        self._epoch_ended = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write_epoch(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write_epoch(trainer, pl_module)
        if self._final and not same(fingerprint(pl_module), self._final):
            self._write_final(trainer)

    def write_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what an epoch that has ended is to leave, once."""
        if self._epoch_ended and trainer.is_last_batch:
            self._epoch_ended = False
            super().on_train_epoch_end(trainer, pl_module)
            self.write_last(trainer)

    def remember_weights(self, pl_module: LightningModule) -> None:
        """Note the weights that were validated or trained, before others exchange them."""
        self._final = fingerprint(pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._monitor_is_open:
            self.monitor = state_dict["monitor"]
        # The folder may have been moved, and Lightning would forget what was best.
        here = Path(str(self.dirpath))
        paths = {name: state_dict[name] for name in PATHS if state_dict[name]}
        moved = {name: str(here / Path(path).name) for name, path in paths.items()}
        models = state_dict["best_k_models"].items()
        best = {str(here / Path(path).name): score for path, score in models}
        state_dict = {**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath}
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]

    def write_last(self, trainer: Trainer) -> None:
        """Write ``last.ckpt`` as of now, on all ranks together."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._last_saved_step = trainer.global_step
        assert self.dirpath is not None
        self.last_model_path = str(Path(self.dirpath) / "last.ckpt")
        trainer.save_checkpoint(self.last_model_path, weights_only=False)

    def _write_final(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = Path(str(self.dirpath)) / "final.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            warn(f"a callback changed the weights after the last validation: {path} holds them")


def fingerprint(module: LightningModule) -> list[Tensor]:
    """Compute numbers of the weights that tell whether one has changed: norms and sums, () each."""
    parts = [p for p in (*module.parameters(), *module.buffers()) if not is_lazy(p)]
    weights: list[Tensor] = [p.detach() for p in parts if p.is_floating_point()]
    if not weights:
        return []
    found = [*torch._foreach_norm(weights), *(weight.sum() for weight in weights)]
    return [number.nan_to_num(-1.0) for number in found]  # NaN is not equal to itself


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Tell whether two fingerprints are equal."""
    return len(one) == len(other) and all(map(torch.equal, one, other))
