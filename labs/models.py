"""Networks that labs need and the project has not."""

from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError
from torchmetrics.classification import (
    BinaryPrecision,
    BinaryRecall,
    MulticlassAccuracy,
    MulticlassCalibrationError,
)

from src.models import MLP
from src.models.supervised import SupervisedModule

ACTIVATIONS = {"identity": nn.Identity, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


class DeepMLP(SupervisedModule):
    """A linear layer, ``depth`` hidden layers of one width, a linear layer; class scores.

    Batch: x (B, F) float32, about unit variance; classes (B,) int64.

    Logs: train, val and test loss, acc (share of samples, 0 to 1) and ece (expected calibration
    error: how far, in the mean, a prediction's probability is from the share that is right).

    Args:
        num_features: Length F of one input row.
        num_classes: Number K of classes.
        width: Outputs of each hidden layer.
        depth: Hidden layers.
        activation: Between them; ``identity``: none.
        residual: Add a hidden layer's inputs to its outputs (He et al. 2016).
        loss: Of class scores (B, K): ``mse`` compares them with zeros and a one.
        label_smoothing: Of cross-entropy: probability mass spread over all classes.
        kwargs: See ``SupervisedModule``.
    """

    def __init__(
        self,
        num_features: int = 2,
        num_classes: int = 3,
        width: int = 32,
        depth: int = 3,
        activation: Literal["identity", "relu", "sigmoid", "tanh"] = "relu",
        residual: bool = False,
        loss: Literal["cross_entropy", "mse"] = "cross_entropy",
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        activate = ACTIVATIONS[activation]
        layers: list[nn.Module] = [nn.Linear(num_features, width), activate()]
        for _ in range(depth):
            hidden = nn.Sequential(nn.Linear(width, width), activate())
            layers.append(Residual(hidden) if residual else hidden)
        layers.append(nn.Linear(width, num_classes))
        losses: dict[str, Any] = {
            "cross_entropy": partial(F.cross_entropy, label_smoothing=label_smoothing),
            "mse": one_hot_mse,
        }
        metrics = {
            "acc": MulticlassAccuracy(num_classes, average="micro"),
            "ece": MulticlassCalibrationError(num_classes),
        }
        super().__init__(nn.Sequential(*layers), losses[loss], metrics, **kwargs)
        self.save_hyperparameters()


class Residual(nn.Module):
    """Add a layer's inputs to its outputs: gradients pass by the layer unchanged."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layer(x)
        return y


def one_hot_mse(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of class scores (B, K) from 1 for the true class and 0 for others."""
    return F.mse_loss(scores, F.one_hot(labels, scores.shape[1]).to(scores.dtype))


class Screening(MLP):
    """Tell the ill (class 1) from the healthy, and log how many of them are found in the test.

    Logs: as ``MLP``, test/recall (share of the ill that are told to be ill) and test/precision
    (share of those told to be ill that are).

    Args:
        kwargs: See ``MLP``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(num_classes=2, **kwargs)
        self.recall, self.precision = BinaryRecall(), BinaryPrecision()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        outputs = super().test_step(batch, batch_idx)
        self.recall.update(outputs.argmax(1), batch[1])
        self.precision.update(outputs.argmax(1), batch[1])
        self.log("test/recall", self.recall)
        self.log("test/precision", self.precision)
        return outputs


class Elman(SupervisedModule):
    """A recurrent network, whose last state gives a number: (B, T, 1) -> (B,).

    Batch: x (B, T, 1) float32, y (B,) float32, both of about unit variance.

    Args:
        width: Length of the state.
        gain: Factor by which the recurrent weight, a rotation at first, scales the state in a step.
        kwargs: See ``SupervisedModule``.
    """

    def __init__(self, width: int = 32, gain: float = 1.0, **kwargs: Any) -> None:
        recurrent = nn.RNN(1, width, batch_first=True, nonlinearity="relu")
        _, of_state, *_ = recurrent.all_weights[0]
        nn.init.orthogonal_(of_state, gain)
        super().__init__(recurrent, F.mse_loss, {"mae": MeanAbsoluteError()}, **kwargs)
        self.save_hyperparameters()
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.network(x)  # (1, B, width)
        y: Tensor = self.head(last[0])  # (B, 1)
        return y.flatten()


class SquareFinder(LightningModule):
    """For each cell of 8 x 8 pixels, the score of a box that begins there.

    (B, 1, H, W) -> (B, H / 8, W / 8).

    Batch: images (B, 1, H, W) float32; boxes, a list of B tensors (M, 4) or a tensor (B, M, 4),
    filled up with NaN.

    Logs: train/loss, val/loss (binary cross-entropy of a cell); in the test, boxes of an image, as
    labelled (test/labelled) and as found (test/found, those with a probability above a half).

    Args:
        lr: Learning rate of Adam.
    """

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(8),
            nn.Conv2d(16, 1, 1),
            nn.Flatten(1, 1),
        )
        self.lr = lr

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.network(images)  # (B, 1, H / 8, W / 8)
        return scores.squeeze(1)

    def score(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, scores, and 1 where a box begins, else 0: both (B, H / 8, W / 8)."""
        images, boxes = batch
        scores = self(images)
        targets = torch.zeros_like(scores)
        for target, some in zip(targets, boxes, strict=True):
            real = some[some[:, 0].isfinite()]
            columns, rows = (real[:, :2] // 8).long().T
            target[rows, columns] = 1
        return F.binary_cross_entropy_with_logits(scores, targets), scores, targets

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, _, _ = self.score(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.score(batch)[0], batch_size=len(batch[0]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        loss, scores, targets = self.score(batch)
        counts = {"labelled": targets, "found": scores > 0}
        means = {f"test/{name}": cells.sum((1, 2)).float().mean() for name, cells in counts.items()}
        self.log_dict({"test/loss": loss, **means}, batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.lr)
