"""The table of named callbacks, which a project's own inherits."""

from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_type_hints

from .checkpoint import Checkpoint
from .compile import Compile
from .cuda_graph import CUDAGraph
from .early_stopping import EarlyStopping
from .gradient_norms import GradientNorms
from .image_summaries import ImageSummaries
from .layer_check import LayerCheck
from .nonfinite import Nonfinite
from .plots import Plots
from .progress import Progress
from .throughput import Throughput


def on() -> Any:
    """Make a field of a callback that is on unless switched off: it needs no choice."""
    return field(default=None, metadata={"on": True})


@dataclass
class Callbacks:
    """Each can be set by its name, or switched off with ``null``; hooks are called in this order.

    Args:
        compile: Compile the model when training begins.
        cuda_graph: Replay training steps as one CUDA graph.
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

    compile: Compile | None = None
    cuda_graph: CUDAGraph | None = None
    nonfinite: Nonfinite | None = on()
    layer_check: LayerCheck | None = None
    gradient_norms: GradientNorms | None = on()  # after what leaves steps out
    image_summaries: ImageSummaries | None = on()
    checkpoint: Checkpoint | None = on()
    early_stopping: EarlyStopping | None = None
    throughput: Throughput | None = on()
    progress: Progress | None = on()
    plots: Plots | None = on()


def classes(table: type[Callbacks]) -> dict[str, type[Any]]:
    """Return the class of each named callback."""
    hints = get_type_hints(table)
    return {field.name: get_args(hints[field.name])[0] for field in fields(table)}


def defaults(table: type[Callbacks]) -> dict[str, type[Any]]:
    """Return those that are on unless switched off."""
    of_all = classes(table)
    return {part.name: of_all[part.name] for part in fields(table) if part.metadata.get("on")}
