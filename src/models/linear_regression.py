"""Linear regression, the smallest model there is."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import R2Score

from lightkeel.callbacks.figures import Panel
from lightkeel.errors.checks import at_least

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
        network = nn.Sequential(nn.Linear(num_features, 1), nn.Flatten(0))  # (B, F) -> (B,)
        super().__init__(network=network, loss=F.mse_loss, metrics={}, **kwargs)
        self.save_hyperparameters()
        self.test_metrics.add_metrics({"r2": R2Score()})
        self._tested: list[Batch] = []  # what is shown

    @property
    def layer(self) -> nn.Linear:
        """The linear layer: weight (1, F), bias (1,)."""
        layer = self.network.get_submodule("0")
        assert isinstance(layer, nn.Linear)
        return layer

    def on_test_start(self) -> None:
        self._tested.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if sum(len(targets) for _, targets in self._tested) < MOST_SHOWN:
            self._tested.append(batch)
        return super().test_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        truth = self._truth()
        if truth is not None:
            (weights, bias), (true_weights, true_bias) = self._found(), truth
            weight_error = (weights - true_weights).abs().max()
            bias_error = (bias - true_bias).abs().max()
            errors = {"test/weight_error": weight_error, "test/bias_error": bias_error}
            self.log_dict(errors, sync_dist=True)

    def report(self) -> dict[str, str]:
        """Rows for the table at the end of a run: the weights found, beside the true ones."""
        if self.layer.in_features > 8:
            return {}
        weights, bias = self._found()
        rows = {"weights": _format(weights), "bias": _format(bias)}
        truth = self._truth()
        if truth is not None:
            rows["weights"] += f"  (true {_format(truth[0])})"
            rows["bias"] += f"  (true {_format(truth[1])})"
        return rows

    def panels(self) -> list[Panel]:
        """Show the fit on test data: y beside the features, of more than two beside predictions.

        With two features, y less what the model makes of the other one is shown beside each.
        """
        found, truth = self._found(), self._truth()  # by all devices together
        if not self._tested:
            return []
        x, y = (torch.cat(p)[:MOST_SHOWN].float().cpu() for p in zip(*self._tested, strict=True))
        named = {"fitted": found, "true": truth}
        # The data may be of one precision and the weights of another.
        lines = {n: (w[0].float().cpu(), w[1].float().cpu()) for n, w in named.items() if w}
        num_features = len(lines["fitted"][0])
        if num_features > 2:
            predicted = x @ lines["fitted"][0] + lines["fitted"][1]
            ends = torch.stack([y.min(), y.max()])
            return [Panel("predicted", "true", (predicted, y), {"predicted = true": (ends, ends)})]
        panels = []
        for i in range(num_features):
            ends = torch.stack([x[:, i].min(), x[:, i].max()])
            others = [j for j in range(num_features) if j != i]
            rest = "".join(f" - w{j + 1} x{j + 1}" for j in others)
            part = y - x[:, others] @ lines["fitted"][0][others]
            straight = {name: (ends, ends * w[i] + b) for name, (w, b) in lines.items()}
            panels.append(Panel(f"x{i + 1}", f"y{rest}", (x[:, i], part), straight))
        return panels

    def _found(self) -> tuple[Tensor, Tensor]:
        """Weights (F,) and bias (1,); where devices share them out, all must ask together."""
        weight, bias = (getattr(p, "full_tensor", p.detach)() for p in self.layer.parameters())
        return weight[0], bias

    def _truth(self) -> tuple[Tensor, Tensor] | None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "true_weights"):
            return None
        return data.true_weights.to(self.device), data.true_bias.to(self.device)


def _format(values: Tensor) -> str:
    return ", ".join(f"{value:.4f}" for value in values.reshape(-1).tolist())
