"""Draw pictures of a run when it has ended."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from . import figures as plots
from .confusion import Confusion
from .image_summaries import to_pixels
from .linear_fit import MOST_SHOWN


class Plots(Confusion):
    """Write ``plots/*.png`` in the folder of the run, after its test: training waits for none.

    Loss and metrics, train beside val; learning rate; gradient norm; where classes are told apart,
    which is taken for which, and of images the worst mistakes; and the fit of a model that has a
    ``fitted_line``, see ``linear_fit``.

    Args:
        num_worst: Mistakes to show.
    """

    def _forget(self) -> None:
        super()._forget()
        self.samples: list[tuple[Tensor, Tensor]] = []  # x (B, F), y (B,)

    def _collect(self, outputs: Any, batch: Any) -> None:
        super()._collect(outputs, batch)
        parts = batch if isinstance(batch, (tuple, list)) else ()
        ndims = [getattr(part, "ndim", None) for part in parts]
        if ndims == [2, 1] and sum(len(y) for _, y in self.samples) < MOST_SHOWN:
            self.samples.append((batch[0], batch[1]))

    def draw(self, trainer: Trainer, folder: Path, panels: list[plots.Panel]) -> None:
        """Draw on one device, after its test, what there is and what the model shows of its fit."""
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
            inputs = torch.stack([m.inputs for m in self.worst]) if self.worst else self.matrix
            if inputs.ndim == 4 and inputs.shape[1] in (1, 3):
                captions = [
                    f"{labels[m.target]}\n→ {labels[m.predicted]}\n{100 * m.probability:.0f} % sure"
                    for m in self.worst
                ]
                images = to_pixels(inputs, data).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
                heading = f"{title}: the surest mistakes, true → predicted"
                figures["worst"] = plots.worst_figure(heading, images, captions)
        if panels:
            figures["fit"] = plots.fit_figure(f"{title}: fit, on test data", panels)
        plots.save(figures, folder / "plots")
