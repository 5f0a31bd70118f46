"""Linear regression, the smallest model there is."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import R2Score

from lightkeel import Panel, at_least, line_panels, whole

from .supervised import Batch, SupervisedModule

MOST_SHOWN = 500  # samples; of more, a picture becomes a cloud


class LinearRegression(SupervisedModule):
    """Predict ``x @ w + b``, fitted by gradient descent on squared error.

    Batch: x (B, F) float32, about unit variance; y (B,) float32 in the unit of the target.

    Logs: train/loss, val/loss, test/loss (mean squared error), test/r2; where the data knows its
    true weights, the largest absolute error of one: test/weight_error, test/bias_error.

    Args:
        num_features: Length F of one input row.
        kwargs: See ``SupervisedModule``.
    """

    def __init__(self, num_features: int = 2, **kwargs: Any) -> None:
        at_least(1, num_features=num_features)
        network = nn.Sequential(nn.Linear(num_features, 1))
        super().__init__(network=network, loss=F.mse_loss, metrics={}, **kwargs)
        self.save_hyperparameters()
        self.test_metrics.add_metrics({"r2": R2Score()})
        self.tested: list[Batch] = []  # what the picture shows

    def forward(self, x: Tensor) -> Tensor:
        """Predictions (B,) for rows (B, F)."""
        y: Tensor = self.network(x)  # (B, 1)
        return y.flatten()  # (B,)

    def on_test_start(self) -> None:
        self.tested.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if sum(len(targets) for _, targets in self.tested) < MOST_SHOWN:
            self.tested.append(batch)
        return super().test_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        (weights, bias), truth = self.fitted(), self.truth()
        if truth is not None:
            self.log("test/weight_error", (weights - truth[0]).abs().max(), sync_dist=True)
            self.log("test/bias_error", (bias - truth[1]).abs().max(), sync_dist=True)

    def fitted(self) -> tuple[Tensor, Tensor]:
        """Weights (F,) and bias (1,); where they are sharded, all ranks must ask together."""
        weight, bias = map(whole, self.network.parameters())
        return weight[0], bias

    def truth(self) -> tuple[Tensor, Tensor] | None:
        """Weights (F,) and bias () of data that knows them."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "true_weights"):
            return None
        return data.true_weights.to(self.device), data.true_bias.to(self.device)

    def report(self) -> dict[str, str]:
        """Rows for the table at the end of a run: the weights found, beside the true ones."""
        if self.hparams["num_features"] > 8:
            return {}
        found, truth = [listed(values) for values in self.fitted()], self.truth()
        beside = [f"  (true {listed(values)})" for values in truth] if truth else ["", ""]
        return {"weights": found[0] + beside[0], "bias": found[1] + beside[1]}

    def panels(self) -> list[Panel]:
        """Show the fit on test data, for the picture at the end of a run."""
        lines = {"fitted": self.fitted(), "true": self.truth()}
        if not self.tested:
            return []
        x, y = (torch.cat(parts)[:MOST_SHOWN] for parts in zip(*self.tested, strict=True))
        return line_panels(x, y, {name: line for name, line in lines.items() if line})


def listed(values: Tensor) -> str:
    """Write numbers beside each other."""
    return ", ".join(f"{value:.4f}" for value in values.reshape(-1).tolist())
