"""What a picture shows of a linear fit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .figures import Panel

Line = tuple[Tensor, Tensor]


def line_panels(x: Tensor, y: Tensor, lines: Mapping[str, Line]) -> list[Panel]:
    """Show samples and lines ``x @ w + b``, on any device and of any precision.

    Of one feature y is shown beside it; of two, beside each, y less what the first line makes of
    the other; of more, y beside the predictions of the first line.

    Args:
        x: (N, F).
        y: (N,).
        lines: By name: weights (F,) and bias () or (1,).
    """
    x, y = x.float().cpu(), y.float().cpu()
    drawn = {name: (w.float().cpu(), b.float().cpu()) for name, (w, b) in lines.items()}
    weights, bias = next(iter(drawn.values()))
    if len(weights) > 2:
        ends = torch.stack([y.min(), y.max()])
        points = (x @ weights + bias, y)
        return [Panel("predicted", "true", points, {"predicted = true": (ends, ends)})]
    panels = []
    for i in range(len(weights)):
        ends = torch.stack([x[:, i].min(), x[:, i].max()])
        others = [j for j in range(len(weights)) if j != i]
        rest = "".join(f" - w{j + 1} x{j + 1}" for j in others)
        part = y - x[:, others] @ weights[others]
        straight = {name: (ends, ends * w[i] + b) for name, (w, b) in drawn.items()}
        panels.append(Panel(f"x{i + 1}", f"y{rest}", (x[:, i], part), straight))
    return panels
