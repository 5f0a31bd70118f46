"""Lightning's trainer, built from its options; what cannot be together is refused."""

import os
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    LearningRateFinder,
    ProgressBar,
)
from lightning.pytorch.strategies import FSDPStrategy

from ..callbacks.table import Callbacks
from ..errors.bad_input import InputError
from ..errors.explain import called_by_own_code, is_check
from ..runs.checkpoints import WholeCheckpointIO

FINDERS = {BatchSizeFinder: "the batch size", LearningRateFinder: "the learning rate"}


def as_list(given: Any) -> list[Any]:
    """Return the objects that an option holds: none, one, or a list of them."""
    return given if isinstance(given, list) else [] if given is None else [given]


def settle_callbacks(settings: dict[str, Any], named: Callbacks, others: list[Callback]) -> None:
    """Refuse options of the trainer beside callbacks that do the same, or have one give way."""
    if settings["default_root_dir"] is not None:
        raise InputError(
            "trainer.default_root_dir: a run writes to a folder of its own. Set --runs_dir instead."
        )
    if settings["barebones"]:
        raise InputError(
            "trainer.barebones: leaves out what a run is for: metrics, checkpoints and progress.\n"
            "Switch off what is not wanted, as in --callbacks.gradient_norms null."
        )
    beside = "set beside callbacks.{}. Use one of them"
    for name in ("gradient_clip_val", "gradient_clip_algorithm"):
        if settings[name] is not None and getattr(named, "gradient_clipping", None) is not None:
            why = beside.format("gradient_clipping")
            raise InputError(f"trainer.{name}: {why}, and set the other to null.")
    strategy = settings["strategy"]
    is_first = isinstance(strategy, FSDPStrategy) or strategy == "fsdp_cpu_offload"
    if is_first and getattr(named, "gradient_clipping", None) is not None:
        raise InputError(
            "trainer.strategy: with PyTorch's first FSDP, callbacks.gradient_clipping would see "
            "the norm of a device's own shard.\nSet it to fsdp, which is the second."
        )
    accumulation: Any = getattr(named, "gradient_accumulation", None)
    if settings["accumulate_grad_batches"] != 1 and accumulation is not None:
        if accumulation.effective_batch_size is not None or accumulation.scheduling != {0: 1}:
            why = beside.format("gradient_accumulation")
            raise InputError(f"trainer.accumulate_grad_batches: {why}.")
        batches = settings.pop("accumulate_grad_batches")
        named.gradient_accumulation = type(accumulation)(batches)  # type: ignore[attr-defined]
    for callback in others:
        what = next((FINDERS[kind] for kind in FINDERS if isinstance(callback, kind)), None)
        if what is not None:
            raise InputError(
                f"trainer.callbacks: {type(callback).__name__} changes {what} as the run begins, "
                "and config.yaml would not say so.\n"
                f"Find it first, with lightning.pytorch.tuner.Tuner, and set {what} to that."
            )
    # A progress bar of a person's choice is not beside ours, nor is one of Lightning's, or its
    # checkpoints, in the place of ours where those are switched off and nothing is said of them.
    for name, kind, switch in (
        ("progress", ProgressBar, "enable_progress_bar"),
        ("checkpoint", Checkpoint, "enable_checkpointing"),
    ):
        has_own = any(isinstance(callback, kind) for callback in others)
        if settings[switch] is False or (has_own and kind is ProgressBar):
            setattr(named, name, None)
        elif getattr(named, name) is None and settings[switch] is None:
            settings[switch] = has_own


def follow_torchrun(settings: dict[str, Any]) -> None:
    """Where ``torchrun`` started this process and no devices are named, use what it started."""
    if "TORCHELASTIC_RUN_ID" in os.environ and settings["devices"] == "auto":
        settings["devices"] = int(os.environ["LOCAL_WORLD_SIZE"])
        settings["num_nodes"] = int(os.environ["WORLD_SIZE"]) // settings["devices"]
        if settings["strategy"] == "auto" and os.environ["WORLD_SIZE"] != "1":
            settings["strategy"] = "ddp"


def build_trainer(settings: dict[str, Any]) -> Trainer:
    """Build the trainer; what it refuses is bad input."""
    plugins = as_list(settings["plugins"])
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, WholeCheckpointIO()]
    strategy = settings["strategy"]
    if strategy == "fsdp":
        from ..models.fsdp import FullySharded  # takes a while, and few need it

        strategy = FullySharded()
    for name in ("val_check_interval", "check_val_every_n_epoch"):
        if settings[name] is not None and not settings[name]:  # Lightning would divide by it
            wrong = f"trainer.{name}: {settings[name]} is no interval."
            raise InputError(f"{wrong} Give a number or null.")
    try:
        return Trainer(**{**settings, "plugins": plugins, "strategy": strategy})
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        is_refused = isinstance(error, ImportError) or is_check(error.__traceback__)
        if called_by_own_code(error.__traceback__) or not is_refused:
            raise
        raise InputError(f"trainer: {error}") from error
