"""How the processes of several devices begin and end."""

import atexit
import os
import signal
from collections.abc import MutableMapping
from typing import Any

from lightning.pytorch import Trainer
from torch import distributed


def follow_torchrun(settings: MutableMapping[str, Any]) -> None:
    """Where ``torchrun`` started this process and no devices are named, use what it started."""
    if "TORCHELASTIC_RUN_ID" in os.environ and settings["devices"] == "auto":
        settings["devices"] = int(os.environ["LOCAL_WORLD_SIZE"])
        settings["num_nodes"] = int(os.environ["WORLD_SIZE"]) // settings["devices"]
        if settings["strategy"] == "auto" and os.environ["WORLD_SIZE"] != "1":
            settings["strategy"] = "ddp"


def leave_at_exit(trainer: Trainer) -> None:
    """Have this process leave the others before Python ends, where they ended in agreement.

    Otherwise threads of the process group may let go of Python objects while Python ends, which
    aborts the process (pytorch issue 190489). Not at once: it may train again. Not after a crash:
    leaving would wait for whoever it was at work with.
    """
    if trainer.world_size > 1:
        atexit.register(_leave)


def end_others(trainer: Trainer) -> None:
    """End the processes that this one started, which may be waiting for it in vain."""
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(signal.SIGKILL)  # while they wait, Python answers no other


def _leave() -> None:
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
