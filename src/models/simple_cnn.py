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
        widths = {f"channels[{i}]": width for i, width in enumerate(channels)}
        at_least(1, num_classes=num_classes, in_channels=in_channels, **widths)
        at_least(1, hidden_features=hidden_features)
        check_share(dropout=dropout, label_smoothing=label_smoothing)
        if activation not in ("relu", "identity"):
            raise ValueError(f"activation: {activation!r} is neither `relu` nor `identity`.")
        activate = nn.ReLU if activation == "relu" else nn.Identity
        size = image_size_px
        layers: list[nn.Module] = []
        for before, after in zip([in_channels, *channels], channels, strict=False):
            layers.append(nn.Conv2d(before, after, 3))
            if batch_norm:
                layers.append(nn.BatchNorm2d(after))
            # ReLU is monotone: pooling first computes the same on a quarter of the activations.
            layers += [nn.MaxPool2d(2), activate()]
            size = (size - 2) // 2
        if size < 1:
            raise ValueError(
                f"image_size_px: {image_size_px} is too small for {len(channels)} convolutions "
                f"with pooling. Use at least {3 * 2 ** len(channels) - 2}, or fewer `channels`."
            )
        flat = [in_channels, *channels][-1] * size**2
        layers += [nn.Flatten(), nn.Dropout(dropout), nn.Linear(flat, hidden_features), activate()]
        layers += [nn.Dropout(dropout), nn.Linear(hidden_features, num_classes)]
        super().__init__(
            network=nn.Sequential(*layers).to(memory_format=torch.channels_last),
            loss=partial(F.cross_entropy, label_smoothing=label_smoothing),
            metrics={"acc": MulticlassAccuracy(num_classes, average="micro", validate_args=False)},
            **kwargs,
        )
        self.save_hyperparameters()

    def forward(self, images: Tensor) -> Tensor:
        # (B, C, H, W) -> (B, channels[-1], S, S) -> (B, hidden_features) -> class scores (B, K);
        # each convolution with its pooling turns H into (H - 2) / 2, at last into S.
        scores: Tensor = self.network(images)
        return scores
