"""Lightning's trainer, built from its options; what cannot be together is refused."""

import os
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

from ..callbacks.table import Callbacks
from ..errors.bad_input import InputError
from ..errors.explain import called_by_own_code, is_check
from ..runs.checkpoints import WholeCheckpointIO


def check_trainer(
    settings: Mapping[str, Any], named: Callbacks, others: Sequence[Callback]
) -> None:
    """Raise ``InputError`` for an option of the trainer that a run does in another way."""
    if settings["default_root_dir"] is not None:
        raise InputError(
            "trainer.default_root_dir: a run writes to a folder of its own. Set --runs_dir instead."
        )
    if settings["barebones"]:
        raise InputError(
            "trainer.barebones: leaves out what a run is for: metrics, checkpoints and progress.\n"
            "Switch off what is not wanted, as in --callbacks.gradient_norms null."
        )
    one = "Use one of them, and set the other to null."
    for name in ("gradient_clip_val", "gradient_clip_algorithm"):
        if settings[name] is not None and getattr(named, "gradient_clipping", None) is not None:
            raise InputError(f"trainer.{name}: set beside callbacks.gradient_clipping. {one}")
    accumulation: Any = getattr(named, "gradient_accumulation", None)
    if settings["accumulate_grad_batches"] != 1 and accumulation is not None:
        is_set = accumulation.effective_batch_size is not None
        if is_set or accumulation.scheduling != {0: 1}:
            raise InputError(
                "trainer.accumulate_grad_batches: set beside callbacks.gradient_accumulation. "
                "Use one of them."
            )
    finders = {BatchSizeFinder: "the batch size", LearningRateFinder: "the learning rate"}
    for callback in others:
        for finder, what in finders.items():
            if isinstance(callback, finder):
                name = type(callback).__name__
                raise InputError(
                    f"trainer.callbacks: {name} changes {what} as the run begins, and config.yaml "
                    "would not say so.\n"
                    f"Find it first, with lightning.pytorch.tuner.Tuner, and set {what} to that."
                )


def follow_torchrun(settings: MutableMapping[str, Any]) -> None:
    """Where ``torchrun`` started this process and no devices are named, use what it started."""
    if "TORCHELASTIC_RUN_ID" in os.environ and settings["devices"] == "auto":
        settings["devices"] = int(os.environ["LOCAL_WORLD_SIZE"])
        settings["num_nodes"] = int(os.environ["WORLD_SIZE"]) // settings["devices"]
        if settings["strategy"] == "auto" and os.environ["WORLD_SIZE"] != "1":
            settings["strategy"] = "ddp"


def build_trainer(settings: Mapping[str, Any]) -> Trainer:
    """Build the trainer; what it refuses is bad input."""
    plugins = settings["plugins"] or []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, WholeCheckpointIO()]
    chosen = {**settings, "plugins": plugins}
    if chosen["strategy"] == "fsdp":
        from ..models.fsdp import FullySharded  # takes a while, and few need it

        chosen["strategy"] = FullySharded()
    if settings["val_check_interval"] == {}:  # Lightning passes over it, and then misses it
        raise InputError("trainer.val_check_interval: {} is no interval. Give a number or null.")
    try:
        return Trainer(**chosen)
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        is_refused = isinstance(error, ImportError) or is_check(error.__traceback__)
        if called_by_own_code(error.__traceback__) or not is_refused:
            raise
        raise InputError(f"trainer: {error}") from error
