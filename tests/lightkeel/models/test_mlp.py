"""The multilayer perceptron: its layers, its outputs, and what it refuses."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from src.models import MLP


def test_real_numbers() -> None:
    model = MLP(3, hidden_features=[5, 4]).eval()
    layers: Any = model.network
    kinds = [type(layer) for layer in layers]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear, nn.Flatten]
    assert sum(p.numel() for p in model.parameters()) == 3 * 5 + 5 + 5 * 4 + 4 + 4 + 1
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    first, _, second, _, last, _ = layers
    wanted = last(torch.relu(second(torch.relu(first(x)))))[:, 0]
    torch.testing.assert_close(model(x), wanted)
    assert model(x[:1]).shape == (1,)
    assert model.loss is F.mse_loss
    assert [*model.val_metrics] == ["val/mae"]


def test_classes() -> None:
    model = MLP(3, num_classes=4, hidden_features=[])
    x = torch.randn(7, 3)
    layers: Any = model.network
    torch.testing.assert_close(model(x), layers[0](x))
    assert model(x).shape == (7, 4)
    assert model.loss is F.cross_entropy
    assert [*model.val_metrics] == ["val/acc"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_features": 0}, "num_features: 0 is not at least 1."),
        ({"num_classes": 0}, "num_classes: 0 is not at least 1."),
        ({"hidden_features": [4, 0]}, "hidden_features[1]: 0 is not at least 1."),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        MLP(**settings)
    assert str(error.value) == message
