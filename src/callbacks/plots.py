"""Draw pictures of a run when it has ended."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from .. import plots
from .confusion import Confusion, Mistake
from .gradient_clipping import GradientClipping


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
        limits = [part.max_norm for part in callbacks if isinstance(part, GradientClipping)]
        figures: dict[str, Any] = {}
        if (folder / "metrics.csv").exists():
            curves = plots.read_curves(folder / "metrics.csv")
            figures |= plots.curve_figures(title, curves, *limits[:1])
        if self.matrix is not None:
            labels = plots.class_labels(getattr(data, "class_names", None), len(self.matrix))
            figures["confusion"] = plots.confusion_figure(title, self.matrix, labels)
            if self.worst and is_image(self.worst[0].inputs):
                captions = [caption(mistake, labels) for mistake in self.worst]
                images = pixels([mistake.inputs for mistake in self.worst], data)
                heading = f"{title}: the surest of its mistakes"
                figures["worst"] = plots.worst_figure(heading, images, captions)
        if panels:
            figures["fit"] = plots.fit_figure(f"{title}: fit, on test data", panels)
        plots.save(figures, folder / "plots")


def is_image(inputs: Tensor) -> bool:
    """Tell whether these are (C, H, W) of grey or colours."""
    return inputs.ndim == 3 and inputs.shape[0] in (1, 3)


def pixels(inputs: Sequence[Tensor], data: Any) -> Tensor:
    """Bring back images from inputs of a model, each (C, H, W): (N, H, W, 3) uint8.

    Where the data does not tell how, each image spans all brightness.
    """
    batch = torch.stack(list(inputs)).float()
    preprocessing = getattr(data, "preprocessing", lambda: None)()
    inverse = getattr(preprocessing, "inverse", None)
    if inverse is not None:
        images: Tensor = inverse(batch)
    else:
        low, high = batch.amin((1, 2, 3), True), batch.amax((1, 2, 3), True)
        images = (255 * (batch - low) / (high - low).clamp(min=1e-9)).byte().permute(0, 2, 3, 1)
    return images.expand(-1, -1, -1, 3)


def caption(mistake: Mistake, labels: Sequence[str]) -> str:
    """Say what a sample is, what it was taken for, and how surely, a line each."""
    right, wrong = labels[mistake.target], labels[mistake.predicted]
    return f"{right}\n→ {wrong}\n{100 * mistake.probability:.0f} %"
