"""Classes that lie about one centre each."""

from typing import Any

import torch

from lightkeel import Arrays, InMemoryDataModule


class BlobsDataModule(InMemoryDataModule):
    """Points x (B, 2) float32 about three centres, and which it is: (B,) int64.

    Args:
        num_samples: Samples in each of training, validation and test, drawn apart.
        spread: Standard deviation about a centre; the centres are about 1.7 apart.
        kwargs: See ``InMemoryDataModule``.
    """

    num_features = 2
    num_classes = 3

    def __init__(self, num_samples: int = 600, spread: float = 0.4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_samples = num_samples
        self.spread = spread

    def load(self, source: str) -> Arrays:
        number = ["train", "val", "test"].index(source)
        random = torch.Generator().manual_seed(3 * self.seed + number)
        classes = torch.randint(3, (self.num_samples,), generator=random)
        angles = classes * (2 * torch.pi / 3)
        centres = torch.stack([angles.cos(), angles.sin()], 1)
        noise = torch.randn(self.num_samples, 2, generator=random)
        return Arrays(centres + self.spread * noise, classes)
