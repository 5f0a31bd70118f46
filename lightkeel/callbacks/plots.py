"""Draw pictures of a run when it has ended."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from . import figures as plots
from .confusion import Confusion, Mistake
from .image_summaries import to_pixels


class Plots(Confusion):
    """Write ``plots/*.png`` in the folder of the run, after its test: training waits for none.

    Loss and metrics, train beside val; learning rate; gradient norm; where classes are told apart,
    which is taken for which, and of images the worst mistakes; and the fit of a model that shows
    one (see ``LinearRegression.panels``).

    Args:
        num_worst: Mistakes to show.
    """

    def draw(self, trainer: Trainer, folder: Path, panels: Sequence[plots.Panel]) -> None:
        """Draw everything that there is, on one device.

        Args:
            trainer: The trainer, after its test.
            folder: Folder of the run.
            panels: What the model shows of its fit.
        """
        title = type(trainer.lightning_module).__name__
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        limits = [part.max_norm for part in callbacks if hasattr(part, "max_norm")]
        figures: dict[str, Any] = {}
        if (folder / "metrics.csv").exists():
            curves = plots.read_curves(folder / "metrics.csv")
            figures |= plots.curve_figures(title, curves, *limits[:1])
        if self.matrix is not None:
            labels = plots.class_labels(getattr(data, "class_names", None), len(self.matrix))
            figures["confusion"] = plots.confusion_figure(title, self.matrix, labels)
            if self.worst and is_image(self.worst[0].inputs):
                captions = [caption(mistake, labels) for mistake in self.worst]
                inputs = torch.stack([mistake.inputs for mistake in self.worst])
                images = to_pixels(inputs, data).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
                heading = f"{title}: the surest mistakes, true → predicted"
                figures["worst"] = plots.worst_figure(heading, images, captions)
        if panels:
            figures["fit"] = plots.fit_figure(f"{title}: fit, on test data", panels)
        plots.save(figures, folder / "plots")


def is_image(inputs: Tensor) -> bool:
    """Tell whether these are (C, H, W) of grey or colours."""
    return inputs.ndim == 3 and inputs.shape[0] in (1, 3)


def caption(mistake: Mistake, labels: Sequence[str]) -> str:
    """Say what a sample is, what it was taken for, and how surely, a line each."""
    right, wrong = labels[mistake.target], labels[mistake.predicted]
    return f"{right}\n→ {wrong}\n{100 * mistake.probability:.0f} %"
