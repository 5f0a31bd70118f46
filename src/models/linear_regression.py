"""Linear regression, the smallest model there is."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import R2Score

from lightkeel import at_least, whole

from .supervised import SupervisedModule


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

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x)  # (B, F) -> (B, 1)
        return y.flatten()  # (B,)

    def on_test_epoch_end(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "true_weights"):
            true = (data.true_weights.to(self.device), data.true_bias.to(self.device))
            weights, bias = (a - b for a, b in zip(self.fitted_line(), true, strict=True))
            self.log("test/weight_error", weights.abs().max(), sync_dist=True)
            self.log("test/bias_error", bias.abs().max(), sync_dist=True)

    def fitted_line(self) -> tuple[Tensor, Tensor]:
        """Weights (F,) and bias (1,), for the picture and the table at the end of a run."""
        weight, bias = map(whole, self.network.parameters())
        return weight[0], bias
