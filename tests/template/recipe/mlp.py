"""A multilayer perceptron."""

from typing import Any

from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from src.models.supervised import SupervisedModule


class MLP(SupervisedModule):
    """Tell classes apart with one hidden layer.

    Batch: x (B, F) float32, about unit variance; classes (B,) int64.

    Logs: train, val and test loss (cross-entropy in nats) and acc (share of samples, 0 to 1).

    Args:
        num_features: Length F of one input row.
        num_classes: Number of classes.
        hidden_features: Width of the hidden layer.
        kwargs: See ``SupervisedModule``.
    """

    def __init__(
        self,
        num_features: int = 2,
        num_classes: int = 3,
        hidden_features: int = 16,
        **kwargs: Any,
    ) -> None:
        layers = [nn.Linear(num_features, hidden_features), nn.ReLU()]
        super().__init__(
            network=nn.Sequential(*layers, nn.Linear(hidden_features, num_classes)),
            loss=F.cross_entropy,
            metrics={"acc": MulticlassAccuracy(num_classes, average="micro")},
            **kwargs,
        )
        self.save_hyperparameters()
