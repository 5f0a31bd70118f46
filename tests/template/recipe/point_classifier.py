"""A multilayer perceptron in plain Lightning."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

Batch = tuple[Tensor, Tensor]


class PointClassifier(LightningModule):
    """Tell classes apart with one hidden layer.

    Batch: x (B, F) float32, about unit variance; classes (B,) int64.

    Logs: train, val and test loss (cross-entropy in nats); val and test acc (share of samples).

    Args:
        num_features: Length F of one input row.
        num_classes: Number of classes K.
        num_hidden: Width of the hidden layer.
        lr: Learning rate of AdamW.
    """

    def __init__(
        self, num_features: int = 2, num_classes: int = 3, num_hidden: int = 16, lr: float = 0.01
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.hidden = nn.Linear(num_features, num_hidden)
        self.output = nn.Linear(num_hidden, num_classes)
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.output(F.relu(self.hidden(x)))  # (B, F) -> (B, K)
        return scores

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, classes = batch
        loss = F.cross_entropy(self(x), classes)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.evaluate(batch, "test")

    def evaluate(self, batch: Batch, split: str) -> Tensor:
        """Log loss and accuracy of a batch; the scores are for callbacks to look at."""
        x, classes = batch
        scores: Tensor = self(x)
        self.log(f"{split}/loss", F.cross_entropy(scores, classes), sync_dist=True)
        self.accuracy(scores, classes)
        self.log(f"{split}/acc", self.accuracy)
        return scores

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)
