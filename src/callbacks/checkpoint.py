"""Keep the best and the last state of a run."""

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ..checks import at_least


class Checkpoint(ModelCheckpoint):
    """Write ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` in the folder of the run.

    Lightning's own writes ``last`` only when a better state was found; here it is written after
    every epoch, when all of it has been logged, and every ``every_n_steps`` within.

    Args:
        monitor: Metric whose best value makes ``best.ckpt``. Where not given, ``val/loss`` if the
            model logs it, else the last epoch counts as best.
        mode: Whether less or more is better.
        every_n_steps: Optimizer steps between two writes of ``last.ckpt`` within an epoch.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        every_n_steps: int | None = None,
    ) -> None:
        at_least(1, every_n_steps=every_n_steps)
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.every_n_steps = every_n_steps
        self._last_saved_step = 0
        self._resumed_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self.monitor is None and "val/loss" in getattr(pl_module, "monitorable", ()):
            self.monitor = "val/loss" if trainer.limit_val_batches else None
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_saved_step = trainer.global_step
        epochs: Any = trainer.fit_loop.epoch_progress.current
        if epochs.ready == epochs.processed:  # there is nothing new until the end of the next
            self._resumed_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = bool(self.every_n_steps) and step % (self.every_n_steps or 1) == 0
        # A run that ends within an epoch, at `max_steps` or `max_time`, is saved here: saved at the
        # end of the epoch, it would count as whole, and what is left be skipped when resumed.
        ends = (trainer.should_stop or step == trainer.max_steps) and not trainer.is_last_batch
        # Of an epoch saved in its last step, Lightning would leave out validation when resumed.
        if ((due and not trainer.is_last_batch) or ends) and step != self._last_saved_step:
            self.write_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing yet: schedules by epoch have not been stepped, nor all been logged."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_epoch(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_epoch(trainer, pl_module)

    def _write_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_last_batch and trainer.global_step != self._resumed_step:
            super().on_train_epoch_end(trainer, pl_module)
            self.write_last(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loop = checkpoint["loops"]["fit_loop"]
        epochs, batches = loop["epoch_progress"], loop["epoch_loop.val_loop.batch_progress"]
        if epochs["current"]["ready"] > epochs["current"]["started"]:
            # Between two epochs: as if the next had not been thought of.
            for part in (epochs["total"], epochs["current"]):
                part["ready"] -= 1
        if batches["current"]["ready"] > batches["current"]["completed"]:
            # Within validation: as if it began, since its metrics are in no checkpoint.
            for part in (batches["total"], batches["current"]):
                part |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}

    def write_last(self, trainer: Trainer) -> None:
        """Write ``last.ckpt`` as of now, on all ranks together."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._last_saved_step = trainer.global_step
        assert self.dirpath is not None
        self.last_model_path = str(Path(self.dirpath) / "last.ckpt")
        trainer.save_checkpoint(self.last_model_path, weights_only=False)
