"""What a run writes of itself as it begins, and its metrics as it is resumed."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..models import optimizers as optim
from ..runs import status
from ..runs.environment import environment
from ..runs.files import write_json, write_whole
from ..runs.loggers import MetricsCSV, TensorBoard
from .lightning_state import row_step


class RunFiles(Callback):
    """Write what a run is (``config``: YAML) and that it has begun, and resume its metrics."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder, self.config = folder, config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.place = lambda: (row_step(trainer), trainer.current_epoch)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        optim.follow_validation(trainer)
        # By now a checkpoint to resume from has been read: what it refuses changes nothing here.
        dry: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer.is_global_zero and not dry:
            (self.folder / "metrics.json").unlink(missing_ok=True)  # it says that a run is done
            write_whole(self.folder / "config.yaml", self.config)
            write_json(self.folder / "environment.json", environment(trainer))
            status.begin(self.folder)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers:
            logger.save()
            if isinstance(logger, MetricsCSV):
                checkpoint["metrics_rows"] = logger.num_rows
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if names := getattr(data, "class_names", None):
            checkpoint["class_names"] = names

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers if trainer.state.fn == "fit" else []:
            if isinstance(logger, MetricsCSV):
                logger.resume(checkpoint.get("metrics_rows", 0))
            elif isinstance(logger, TensorBoard):
                logger.resume(checkpoint["global_step"])
