"""What a run shows of a model with ``fitted_line() -> (weights (F,), bias ())``."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from .figures import Panel

Line = tuple[Tensor, Tensor]
MOST_LISTED = 8  # weights
MOST_SHOWN = 500  # samples; of more, a picture becomes a cloud


def lines(trainer: Trainer) -> dict[str, Line]:
    """Ask for weights (F,) and bias (): the fitted, and the true where the data knows them."""
    model: Any = trainer.lightning_module
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    found = {"fitted": model.fitted_line()} if hasattr(model, "fitted_line") else {}
    if found and hasattr(data, "true_weights"):
        found["true"] = (data.true_weights, data.true_bias)
    return {name: (w.float().cpu(), b.float().cpu()) for name, (w, b) in found.items()}


def rows(trainer: Trainer) -> dict[str, str]:
    """Write what was fitted beside what is true, for the table at the end of a run."""
    numbers = [[part.flatten().tolist() for part in line] for line in lines(trainer).values()]
    listed = [[", ".join(f"{v:.4f}" for v in part) for part in line] for line in numbers]
    if not listed or len(numbers[0][0]) > MOST_LISTED:
        return {}
    true = [f"  (true {text})" for text in listed[1]] if len(listed) > 1 else ["", ""]
    return {"weights": listed[0][0] + true[0], "bias": listed[0][1] + true[1]}


def panels(trainer: Trainer, samples: list[Line]) -> list[Panel]:
    """Show samples, batches of x (B, F) and y (B,), and the lines ``x @ w + b``.

    Of one feature y is shown beside it; of two, beside each, y less what the fitted line makes of
    the other; of more, y beside the predictions.
    """
    drawn = lines(trainer)
    if not drawn or not samples:
        return []
    x, y = (torch.cat(part)[:MOST_SHOWN].float().cpu() for part in zip(*samples, strict=True))
    weights, bias = drawn["fitted"]
    if len(weights) > 2:
        ends = torch.stack([y.min(), y.max()])
        points = (x @ weights + bias, y)
        return [Panel("predicted", "true", points, {"predicted = true": (ends, ends)})]
    found = []
    for i in range(len(weights)):
        ends = torch.stack([x[:, i].min(), x[:, i].max()])
        others = [j for j in range(len(weights)) if j != i]
        rest = "".join(f" - w{j + 1} x{j + 1}" for j in others)
        part = y - x[:, others] @ weights[others]
        straight = {name: (ends, ends * w[i] + b) for name, (w, b) in drawn.items()}
        found.append(Panel(f"x{i + 1}", f"y{rest}", (x[:, i], part), straight))
    return found
