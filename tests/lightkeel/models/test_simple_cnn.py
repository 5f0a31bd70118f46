from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from src.models import SimpleCNN
from tests.lightkeel.fitting import Given, trainer


def layers(model: SimpleCNN, kind: type[nn.Module]) -> list[Any]:
    return [module for module in model.network.modules() if type(module) is kind]


def test_default_is_the_network_of_the_tutorials() -> None:
    model = SimpleCNN()
    assert [linear.in_features for linear in layers(model, nn.Linear)] == [2304, 128]
    # 3*32*9 + 32, 32*64*9 + 64, 2304*128 + 128, 128*10 + 10
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in model.network.children()]
    assert [size for size in sizes if size] == [896, 18496, 295040, 1290]
    assert sum(p.numel() for p in model.parameters()) == 315722
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "flat"),
    [
        ({"image_size_px": 28, "in_channels": 1, "channels": [8], "num_classes": 7}, 8 * 13**2),
        ({"image_size_px": 10, "channels": [4, 5]}, 5),
        ({"image_size_px": 33, "channels": (4, 5)}, 5 * 6**2),
        ({"image_size_px": 4, "channels": [], "hidden_features": 3}, 3 * 4**2),
        ({"image_size_px": 64, "channels": [4, 6, 8]}, 8 * 6**2),
    ],
)
def test_sizes_follow_from_the_image(settings: dict[str, Any], flat: int) -> None:
    model = SimpleCNN(**settings)
    hidden, head = layers(model, nn.Linear)
    assert (hidden.in_features, hidden.out_features) == (flat, settings.get("hidden_features", 128))
    size = settings["image_size_px"]
    outputs = model(torch.zeros(2, settings.get("in_channels", 3), size, size))
    assert outputs.shape == (2, head.out_features) == (2, settings.get("num_classes", 10))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_pooling_before_relu_computes_the_same(batch_norm: bool) -> None:
    torch.manual_seed(0)
    model = SimpleCNN(image_size_px=12, channels=[4, 8], batch_norm=batch_norm).eval()
    convs, norms = layers(model, nn.Conv2d), layers(model, nn.BatchNorm2d)
    assert len(norms) == (2 if batch_norm else 0)
    for norm in norms:
        norm.running_mean.normal_()
        norm.weight.data.normal_()
    hidden, head = layers(model, nn.Linear)
    images = torch.randn(5, 3, 12, 12)
    x = images
    for number, conv in enumerate(convs):
        x = conv(x)
        x = norms[number](x) if batch_norm else x
        x = F.max_pool2d(F.relu(x), 2)
    expected = head(F.relu(hidden(x.flatten(1))))
    assert torch.allclose(model(images), expected, atol=1e-6)
    assert float(expected.detach().std()) > 0.01


def test_identity_leaves_max_pooling_as_the_only_nonlinearity() -> None:
    assert len(layers(SimpleCNN(), nn.ReLU)) == 3
    model = SimpleCNN(activation="identity")
    assert {type(layer) for layer in model.network.children()} == {
        *(nn.Conv2d, nn.MaxPool2d, nn.Identity, nn.Flatten, nn.Dropout, nn.Linear)
    }
    affine = SimpleCNN(image_size_px=4, channels=[], activation="identity").double()
    a, b = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64)
    between = 0.3 * affine(a) + 0.7 * affine(b)
    assert torch.allclose(affine(0.3 * a + 0.7 * b), between, atol=1e-12)
    # Up to max pooling: convolutions of positive multiples are multiples where biases are zero.
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(model(3 * images), 3 * model(images), atol=1e-5)


def test_dropout_is_before_both_linear_layers() -> None:
    kinds = [type(layer) for layer in SimpleCNN(dropout=0.25).network.children()]
    tail = [nn.Flatten, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert kinds[-6:] == tail
    assert [drop.p for drop in layers(SimpleCNN(dropout=0.25), nn.Dropout)] == [0.25, 0.25]


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    # Surprises of the classes: 1, 2, 3, 3 bits. Smoothed: (1 - s) * own + s / 4 * all.
    [(0.0, [1, 2, 3]), (0.2, [0.8 + 0.45, 1.6 + 0.45, 2.4 + 0.45])],
)
def test_label_smoothing(smoothing: float, expected: list[float]) -> None:
    model = SimpleCNN(num_classes=4, label_smoothing=smoothing)
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    bits = [float(model.loss(logits, torch.tensor([label]))) / log(2) for label in (0, 1, 2)]
    assert bits == pytest.approx(expected)


def test_accuracy_is_a_share_of_samples(tmp_path: Path) -> None:
    model = SimpleCNN(num_classes=3, image_size_px=4, channels=[])
    _, head = layers(model, nn.Linear)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([0.5, 0.25, 0.25]).log())  # always says class 0
    labels = torch.tensor([0, 0, 1, 0, 2])
    data = Given(torch.randn(5, 3, 4, 4), labels, batch_size=2)
    (found,) = trainer(tmp_path).test(model, datamodule=data, verbose=False)
    assert found == pytest.approx({"test/acc": 0.6, "test/loss": log(2) * 7 / 5})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes: 0 is not at least 1."),
        ({"in_channels": 0}, "in_channels: 0 is not at least 1."),
        ({"hidden_features": -1}, "hidden_features: -1 is not at least 1."),
        ({"channels": [8, 0]}, "channels[1]: 0 is not at least 1."),
        ({"dropout": 1.0}, "dropout: 1.0 is not in [0, 1)."),
        ({"label_smoothing": -0.1}, "label_smoothing: -0.1 is not in [0, 1)."),
        ({"activation": "gelu"}, "activation: 'gelu' is neither `relu` nor `identity`."),
        (
            {"image_size_px": 9},
            "image_size_px: 9 is too small for 2 convolutions with pooling. Use at least 10, or "
            "fewer `channels`.",
        ),
        (
            {"channels": [1, 2, 3, 4, 5]},
            "image_size_px: 32 is too small for 5 convolutions with pooling. Use at least 94, or "
            "fewer `channels`.",
        ),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=":") as caught:
        SimpleCNN(**settings)
    assert str(caught.value) == message
