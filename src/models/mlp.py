"""A multilayer perceptron, for rows of numbers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError
from torchmetrics.classification import MulticlassAccuracy

from lightkeel import at_least

from .supervised import SupervisedModule


class MLP(SupervisedModule):
    """Linear layers with ReLU between them; squared error or, for classes, cross-entropy.

    Batch: x (B, F) float32, about unit variance; y (B,) float32, or classes (B,) int64.

    Logs: train, val and test loss, and mae (mean absolute error) or acc (share of samples, 0 to 1).

    Args:
        num_features: Length F of one input row.
        num_classes: Number of classes; null: the target is a real number.
        hidden_features: Width of each hidden layer.
        kwargs: See ``SupervisedModule``.
    """

    def __init__(
        self,
        num_features: int = 2,
        num_classes: int | None = None,
        hidden_features: Sequence[int] = (64, 64),
        **kwargs: Any,
    ) -> None:
        hidden = {f"hidden_features[{i}]": width for i, width in enumerate(hidden_features)}
        at_least(1, num_features=num_features, num_classes=num_classes, **hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise([num_features, *hidden_features, num_classes or 1]):
            layers += [nn.Linear(before, after), nn.ReLU()]
        layers[-1] = nn.Identity() if num_classes else nn.Flatten(0)  # (B, K), or (B, 1) -> (B,)
        accuracy = MulticlassAccuracy(num_classes or 2, average="micro", validate_args=False)
        loss = F.cross_entropy if num_classes else F.mse_loss
        metrics = {"acc": accuracy} if num_classes else {"mae": MeanAbsoluteError()}
        super().__init__(nn.Sequential(*layers), loss, metrics, **kwargs)
        self.save_hyperparameters()
