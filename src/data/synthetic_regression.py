"""Samples of a linear function, made on the spot: nothing to download, and the truth is known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lightkeel import Arrays, InMemoryDataModule, at_least

STREAMS = {"train": 0, "val": 1, "test": 2}


class SyntheticRegressionDataModule(InMemoryDataModule):
    """Samples of y = x @ w + b + noise, x standard normal: x (B, F) float32, y (B,) float32.

    Args:
        weights: True weights w, one a feature.
        bias: True bias b.
        noise_std: Standard deviation of the noise, in the unit of y.
        num_samples: Training samples.
        num_val_samples: Validation samples, drawn apart.
        num_test_samples: Test samples, drawn apart.
        kwargs: See ``InMemoryDataModule``.
    """

    def __init__(
        self,
        weights: Sequence[float] = (2.0, -3.4),
        bias: float = 4.2,
        noise_std: float = 0.01,
        num_samples: int = 1000,
        num_val_samples: int = 200,
        num_test_samples: int = 200,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not weights:
            raise ValueError("weights: empty. Give one for each feature.")
        at_least(0, noise_std=noise_std)
        self.counts = {"train": num_samples, "val": num_val_samples, "test": num_test_samples}
        at_least(2, num_samples=num_samples, num_val_samples=num_val_samples)
        at_least(2, num_test_samples=num_test_samples)
        self.noise_std = noise_std
        self.true_weights = torch.tensor(weights, dtype=torch.float32)
        self.true_bias = torch.tensor(bias, dtype=torch.float32)
        self.num_features = len(weights)

    def load(self, source: str) -> Arrays:
        random = np.random.default_rng([self.seed, STREAMS[source]])
        count = self.counts[source]
        x = torch.from_numpy(random.standard_normal((count, self.num_features))).float()
        noise = torch.from_numpy(random.standard_normal(count)).float() * self.noise_std
        return Arrays(x, x @ self.true_weights + self.true_bias + noise)
