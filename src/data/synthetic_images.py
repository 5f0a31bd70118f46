"""Images of classes that can be learned, made on the spot: nothing to download."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightkeel import Arrays, ImageDataModule, at_least

STREAMS = {"train": 0, "val": 1, "test": 2, "patterns": 3}


class SyntheticImageDataModule(ImageDataModule):
    """Images of learnable classes: a smooth pattern for each class, shifted, faded, with noise.

    Args:
        num_classes: Number of classes, equally frequent.
        num_samples: Training images.
        num_val_samples: Validation images, drawn apart.
        num_test_samples: Test images, drawn apart.
        image_size_px: Height and width of an image.
        noise_std: Standard deviation of the noise, in units of a pattern's contrast.
        kwargs: See ``ImageDataModule``.
    """

    def __init__(
        self,
        num_classes: int = 10,
        num_samples: int = 10_000,
        num_val_samples: int = 1_000,
        num_test_samples: int = 2_000,
        image_size_px: int = 32,
        noise_std: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size_px=image_size_px, mean=(0.5,) * 3, std=(0.2,) * 3, **kwargs)
        self.counts = {"train": num_samples, "val": num_val_samples, "test": num_test_samples}
        for name, count in zip(("", "val_", "test_"), self.counts.values(), strict=True):
            if count < num_classes:
                raise ValueError(f"num_{name}samples: {count} is fewer than num_classes.")
        at_least(2, num_classes=num_classes)
        at_least(0, noise_std=noise_std)
        self.num_classes, self.noise_std = num_classes, noise_std

    def load(self, source: str) -> Arrays:
        patterns = self.patterns()
        random = np.random.default_rng([self.seed, STREAMS[source]])
        count, size = self.counts[source], self.image_size_px
        labels = torch.arange(count) % self.num_classes
        images = torch.empty(count, size, size, 3, dtype=torch.uint8)
        for i, label in enumerate(labels.tolist()):
            shift = random.integers(-size // 8, size // 8 + 1, 2)
            image = torch.roll(patterns[label], shift.tolist(), (0, 1)) * random.uniform(0.5, 1.5)
            noise = torch.from_numpy(random.standard_normal((size, size, 3))).float()
            images[i] = ((image + self.noise_std * noise) * 0.1 + 0.5).clamp(0, 1).mul(255).byte()
        return Arrays(images, labels)

    def patterns(self) -> Tensor:
        """Draw the pattern of each class: (K, H, W, 3)."""
        random = np.random.default_rng([self.seed, STREAMS["patterns"]])
        coarse = torch.from_numpy(random.standard_normal((self.num_classes, 3, 4, 4))).float()
        size = (self.image_size_px, self.image_size_px)
        return F.interpolate(coarse, size, mode="bicubic").permute(0, 2, 3, 1)
