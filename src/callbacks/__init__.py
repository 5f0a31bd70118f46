"""The callbacks of this project, and the table of all that can be set by name."""

from dataclasses import dataclass

from lightkeel import Callbacks as LibraryCallbacks, on

from .checkpoint import Checkpoint as Checkpoint
from .gradient_accumulation import GradientAccumulation as GradientAccumulation
from .gradient_clipping import GradientClipping as GradientClipping
from .lr_monitor import LRMonitor as LRMonitor


@dataclass
class Callbacks(LibraryCallbacks):
    """A field is an option, ``--callbacks.NAME``; ``null``: off. ``on()``: on by default.

    Args:
        checkpoint: Write best.ckpt and last.ckpt.
        gradient_clipping: Limit gradients before each step.
        gradient_accumulation: Several batches for one optimizer step.
        lr_monitor: Log learning rate, momentum and weight decay.
    """

    checkpoint: Checkpoint | None = on()
    gradient_clipping: GradientClipping | None = None
    gradient_accumulation: GradientAccumulation | None = on()
    lr_monitor: LRMonitor | None = on()
