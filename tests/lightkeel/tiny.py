"""The tests' own experiment, so that they hold whatever becomes of the project's models and data.

Name them by their dotted paths, as in ``tiny.yaml``: as they are not in the package, no short name
of a person's own can collide with theirs.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lightkeel.data import philox
from lightkeel.data.in_memory import Arrays, InMemoryDataModule, Split
from lightkeel.errors.checks import at_least
from src.models.supervised import SupervisedModule

NUM_FEATURES = 4
NUM_CLASSES = 3


class TinyModel(SupervisedModule):
    """Linear layers for ``TinyData``, with an option of each type."""

    def __init__(
        self,
        num_features: int = NUM_FEATURES,
        num_classes: int = NUM_CLASSES,
        widths: Sequence[int] = (8,),
        activation: Literal["relu", "tanh"] = "relu",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        at_least(1, num_features=num_features, num_classes=num_classes)
        at_least(1, **{f"widths[{i}]": width for i, width in enumerate(widths)})
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: {dropout} is not in [0, 1).")
        layers: list[nn.Module] = []
        for before, after in zip([num_features, *widths], widths, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU() if activation == "relu" else nn.Tanh()]
        last = [nn.Dropout(dropout), nn.Linear([num_features, *widths][-1], num_classes)]
        super().__init__(
            network=nn.Sequential(*layers, *last),
            loss=F.cross_entropy,
            metrics={"acc": MulticlassAccuracy(num_classes, average="micro", validate_args=False)},
            **kwargs,
        )
        self.save_hyperparameters()


class TinyData(InMemoryDataModule):
    """Points (B, 4) about the corners of a simplex, shaken in training; classes (B,) int64.

    Like an augmentation, the shake of a sample is a function of (seed, epoch, row).
    """

    num_features = NUM_FEATURES
    num_classes = NUM_CLASSES

    def __init__(
        self,
        num_samples: int = 96,
        num_val_samples: int = 20,
        num_test_samples: int = 30,
        shake: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.counts = {"train": num_samples, "val": num_val_samples, "test": num_test_samples}
        self.shake = shake

    def load(self, source: str) -> Arrays:
        random = np.random.default_rng([self.seed, list(self.counts).index(source)])
        labels = torch.arange(self.counts[source]) % NUM_CLASSES
        noise = torch.from_numpy(random.standard_normal((len(labels), NUM_FEATURES))).float()
        return Arrays(2 * torch.eye(NUM_CLASSES, NUM_FEATURES)[labels] + noise, labels)

    def transform(self, inputs: Tensor, rows: Tensor, split: Split) -> Tensor:
        if split != "train":
            return inputs
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        draws = philox.uniform(self.counts["train"], self.seed, epoch, "shake").to(rows.device)
        return inputs + self.shake * (draws[rows] - 0.5)
