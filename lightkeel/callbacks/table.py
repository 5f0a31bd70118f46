"""The table of named callbacks, which a project's own inherits."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_args, get_type_hints

from .checkpoint import Checkpoint
from .early_stopping import EarlyStopping
from .gradient_norms import GradientNorms
from .image_summaries import ImageSummaries
from .layer_check import LayerCheck
from .nonfinite import Nonfinite
from .plots import Plots
from .progress import Progress
from .throughput import Throughput


@dataclass
class Callbacks:
    """Each can be set by its name, or switched off with ``null``.

    Attributes:
        on: Names of those that are on unless switched off: they need no choice.

    Args:
        nonfinite: Stop where a loss is NaN or infinite, or leave such steps out.
        layer_check: Name the first layer that makes NaN or infinity.
        gradient_norms: Log the size of each layer's gradient.
        image_summaries: Images, features, filters and mistakes for TensorBoard.
        checkpoint: Write best.ckpt and last.ckpt.
        early_stopping: Stop when a metric no longer improves.
        throughput: Measure samples per second and memory.
        progress: Show how the run gets on.
        plots: Draw pictures when the run has ended.
    """

    on: ClassVar[tuple[str, ...]] = (
        *("nonfinite", "gradient_norms", "image_summaries", "checkpoint", "throughput"),
        *("progress", "plots"),
    )

    nonfinite: Nonfinite | None = None
    layer_check: LayerCheck | None = None
    gradient_norms: GradientNorms | None = None  # after what leaves steps out
    image_summaries: ImageSummaries | None = None
    checkpoint: Checkpoint | None = None
    early_stopping: EarlyStopping | None = None
    throughput: Throughput | None = None
    progress: Progress | None = None
    plots: Plots | None = None


def classes(table: type[Callbacks]) -> dict[str, type[Any]]:
    """Return the class of each named callback."""
    hints = get_type_hints(table)
    return {field.name: get_args(hints[field.name])[0] for field in fields(table)}
