"""A convolutional network that is quick to train to 94 % on CIFAR-10."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lightkeel import at_least, check_share, whitening_filters

from .supervised import SupervisedModule

WHITENING_PX = 2  # side of the patches that the first layer whitens
WHITENING_IMAGES = 5000
WHITENING_EPS = 5e-4  # added to variances, of patches of normalized pixels


class FastCNN(SupervisedModule):
    """Whitening, three groups of two convolutions, one linear layer; cross-entropy.

    The network of Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv 2404.00498).
    Its first layer whitens patches: computed from training images when training begins, its weight
    stays as it is, and its bias is trained for ``whiten_bias_epochs``. Convolutions begin as
    partial identities. Settings that suit it are in ``configs/cifar10_fast.yaml``.

    Batch and logs: see ``SimpleCNN``.

    Args:
        num_classes: Number of classes.
        image_size_px: Height and width of an image, at least 26.
        widths: Output channels of the groups.
        label_smoothing: Probability mass spread over all classes (Szegedy et al. 2016).
        whiten_bias_epochs: Epochs in which the bias of the first layer is trained.
        test_time: What outputs in validation and test are averaged over: ``none``; ``mirror``: the
            image and its mirror image; ``translate``: also both shifted by a pixel, two ways.
        sure_above: Images that are given a class with more than this probability without being
            shifted are not shifted, which saves time.
        kwargs: See ``SupervisedModule``.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_size_px: int = 32,
        widths: Sequence[int] = (64, 256, 256),
        label_smoothing: float = 0.2,
        whiten_bias_epochs: int = 3,
        test_time: Literal["none", "mirror", "translate"] = "translate",
        sure_above: float = 1.0,
        **kwargs: Any,
    ) -> None:
        at_least(26, image_size_px=image_size_px)
        numbers = {f"widths[{i}]": width for i, width in enumerate(widths)}
        at_least(1, num_classes=num_classes, **numbers)
        at_least(0, whiten_bias_epochs=whiten_bias_epochs)
        if len(widths) != 3:
            raise ValueError(f"widths: {list(widths)} are not three.")
        check_share(label_smoothing=label_smoothing)
        if test_time not in ("none", "mirror", "translate"):
            raise ValueError(f"test_time: {test_time!r} is none of `none`, `mirror`, `translate`.")
        if not 0 <= sure_above <= 1:
            raise ValueError(f"sure_above: {sure_above} is not in [0, 1].")
        whitening = nn.Conv2d(3, 2 * 3 * WHITENING_PX**2, WHITENING_PX)
        pairs = zip([whitening.out_channels, *widths], widths, strict=False)
        size = (image_size_px - WHITENING_PX + 1) // 8 // 3  # after four poolings
        head = Head(widths[-1] * size**2, num_classes, bias=False)
        groups = (group(before, after) for before, after in pairs)
        layers = [whitening, nn.GELU(), *groups, nn.MaxPool2d(3), nn.Flatten(), head]
        super().__init__(
            network=nn.Sequential(*layers).to(memory_format=torch.channels_last),
            loss=partial(F.cross_entropy, label_smoothing=label_smoothing),
            metrics={"acc": MulticlassAccuracy(num_classes, average="micro", validate_args=False)},
            **kwargs,
        )
        self.save_hyperparameters()
        whitening.weight.requires_grad = False
        for layer in self.network.modules():
            if isinstance(layer, nn.Conv2d) and layer is not whitening:
                nn.init.dirac_(layer.weight.data[: layer.in_channels])
        self.whiten_bias_epochs = whiten_bias_epochs
        self.test_time = test_time
        self.sure_above = sure_above

    @property
    def whitening(self) -> nn.Conv2d:
        """The first layer: weight (24, 3, 2, 2), bias (24,)."""
        layer: Any = self.network.get_submodule("0")
        return layer  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (B, K) of images (B, 3, H, W); of several views of each in evaluation."""
        if self.training or self.test_time == "none":
            return super().forward(images)
        outputs = self.mirrored(images)
        if self.test_time == "translate":
            unsure = outputs.softmax(1).amax(1) <= self.sure_above
            if self.sure_above == 1 or torch.compiler.is_compiling():  # sizes depend on no value
                shifted = (outputs + self.shifted(images)) / 2
                return torch.where(unsure[:, None], shifted, outputs)
            outputs[unsure] = (outputs[unsure] + self.shifted(images[unsure])) / 2
        return outputs

    def mirrored(self, images: Tensor) -> Tensor:
        """Mean class scores of images and their mirror images."""
        return (super().forward(images) + super().forward(images.flip(3))) / 2

    def shifted(self, images: Tensor) -> Tensor:
        """Mean class scores of images shifted by a pixel, up and left or down and right."""
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
        return (self.mirrored(padded[:, :, :-2, :-2]) + self.mirrored(padded[:, :, 2:, 2:])) / 2

    def on_fit_start(self) -> None:
        if self.trainer.ckpt_path is None:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            if not hasattr(data, "training_images"):
                raise ValueError("data: FastCNN whitens images, and this data has none to show it.")
            images = data.training_images(WHITENING_IMAGES).to(self.device)
            filters = whitening_filters(images, WHITENING_PX, WHITENING_EPS)
            self.whitening.weight.data.copy_(filters)

    def on_after_backward(self) -> None:
        # Not by `requires_grad`, which processes that train together must agree on beforehand.
        if self.current_epoch >= self.whiten_bias_epochs and self.whitening.bias is not None:
            self.whitening.bias.grad = None


class BatchNorm(nn.Module):
    """Batch normalization with a bias and no scale, which only the next layer could tell apart."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        # Statistics follow quickly: a run has only a few hundred steps.
        self.norm = nn.BatchNorm2d(num_features, eps=1e-12, momentum=0.4, affine=False)
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, images: Tensor) -> Tensor:
        normalized: Tensor = self.norm(images)
        return normalized + self.bias[:, None, None]


class Head(nn.Linear):
    """A linear layer whose outputs are small."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * (1 / 9)


def group(before: int, after: int) -> nn.Sequential:
    """Two convolutions with pooling after the first: (B, C, H, W) -> (B, C', H / 2, W / 2)."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding="same", bias=False),
        nn.MaxPool2d(2),
        *(BatchNorm(after), nn.GELU()),
        nn.Conv2d(after, after, 3, padding="same", bias=False),
        *(BatchNorm(after), nn.GELU()),
    )
