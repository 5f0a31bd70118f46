"""A small convolutional network for small images."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lightkeel import at_least, check_share

from .supervised import SupervisedModule


class SimpleCNN(SupervisedModule):
    """Convolution, pooling, ... , two linear layers; cross-entropy.

    Batch: images (B, C, H, W) float, normalized, H = W = ``image_size_px``; labels (B,) int64.

    Logs: train/loss, val/loss, test/loss (cross-entropy in nats, smoothed as in training) and
    train/acc, val/acc, test/acc (share of samples, 0 to 1).

    Args:
        num_classes: Number of classes.
        in_channels: Channels C of an image.
        image_size_px: Height and width of an image.
        channels: Output channels of each 3x3 convolution; each is followed by 2x2 max pooling.
        hidden_features: Width of the hidden linear layer.
        activation: ``identity`` gives the network without activations, for comparison.
        batch_norm: Normalize after each convolution.
        dropout: Probability to drop an input of a linear layer.
        label_smoothing: Probability mass spread over all classes (Szegedy et al. 2016).
        kwargs: See ``SupervisedModule``.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size_px: int = 32,
        channels: Sequence[int] = (32, 64),
        hidden_features: int = 128,
        activation: Literal["relu", "identity"] = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        at_least(1, num_classes=num_classes, in_channels=in_channels)
        at_least(1, hidden_features=hidden_features)
        at_least(1, **{f"channels[{i}]": width for i, width in enumerate(channels)})
        check_share(dropout=dropout, label_smoothing=label_smoothing)
        if activation not in ("relu", "identity"):
            raise ValueError(f"activation: {activation!r} is neither `relu` nor `identity`.")
        activate = nn.ReLU if activation == "relu" else nn.Identity
        size = feature_size_px(image_size_px, len(channels))
        layers: list[nn.Module] = []
        for before, after in zip([in_channels, *channels], channels, strict=False):
            layers.append(nn.Conv2d(before, after, 3))
            if batch_norm:
                layers.append(nn.BatchNorm2d(after))
            # ReLU is monotone: pooling first computes the same on a quarter of the activations.
            layers += [nn.MaxPool2d(2), activate()]
        flat = (channels[-1] if channels else in_channels) * size**2
        layers += [nn.Flatten(), nn.Dropout(dropout), nn.Linear(flat, hidden_features), activate()]
        layers += [nn.Dropout(dropout), nn.Linear(hidden_features, num_classes)]
        super().__init__(
            network=ConvNet(*layers).to(memory_format=torch.channels_last),
            loss=partial(F.cross_entropy, label_smoothing=label_smoothing),
            metrics={"acc": MulticlassAccuracy(num_classes, average="micro", validate_args=False)},
            **kwargs,
        )
        self.save_hyperparameters()


class ConvNet(nn.Sequential):
    """The layers of ``SimpleCNN``."""

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (B, K) of images (B, C, H, W)."""
        *convolutions, flatten, drop, hidden, activate, drop_again, head = self
        x = images
        for layer in convolutions:  # and pooling: H becomes (H - 2) / 2 each time, at last S
            x = layer(x)  # (B, channels[-1], S, S)
        x = drop(flatten(x))  # (B, channels[-1] * S * S)
        x = drop_again(activate(hidden(x)))  # (B, hidden_features)
        scores: Tensor = head(x)  # (B, K)
        return scores


def feature_size_px(image_size_px: int, num_blocks: int) -> int:
    """Compute the side of the feature map after ``num_blocks`` of convolution and pooling.

    Raises:
        ValueError: Nothing is left of the image.
    """
    size = image_size_px
    for _ in range(num_blocks):
        size = (size - 2) // 2
    if size < 1:
        raise ValueError(
            f"image_size_px: {image_size_px} is too small for {num_blocks} convolutions with "
            f"pooling. Use at least {3 * 2**num_blocks - 2}, or fewer `channels`."
        )
    return size
