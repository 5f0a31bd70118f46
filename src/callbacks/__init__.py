"""The callbacks of this project, and the table of all that can be set by name."""

from dataclasses import dataclass
from typing import ClassVar

from lightkeel.callbacks.table import Callbacks as LibraryCallbacks

from .gradient_accumulation import GradientAccumulation as GradientAccumulation
from .gradient_clipping import GradientClipping as GradientClipping
from .lr_monitor import LRMonitor as LRMonitor


@dataclass
class Callbacks(LibraryCallbacks):
    """A field is an option; ``null`` switches it off.

    Args:
        gradient_clipping: Limit gradients before each step.
        gradient_accumulation: Several batches for one optimizer step.
        lr_monitor: Log learning rate, momentum and weight decay.
    """

    on: ClassVar[tuple[str, ...]] = (*LibraryCallbacks.on, "gradient_accumulation", "lr_monitor")

    gradient_clipping: GradientClipping | None = None
    gradient_accumulation: GradientAccumulation | None = None
    lr_monitor: LRMonitor | None = None
