"""Data that labs need and the project has not: small, made with numpy of a seed."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


class Spirals(Dataset[tuple[Tensor, Tensor]]):
    """Points on arms of a spiral, a class each, which no straight line tells apart.

    A sample: x (2,) float32, about unit variance; its class, () int64.

    Args:
        num_samples: Points, the same number on each arm, or one more.
        num_classes: Arms.
        noise_std: Standard deviation of a point's angle, in radians.
        wrong_labels: Share of points whose class is drawn at random.
        data_seed: Of the points.
    """

    def __init__(
        self,
        num_samples: int = 1500,
        num_classes: int = 3,
        noise_std: float = 0.2,
        wrong_labels: float = 0.0,
        data_seed: int = 0,
    ) -> None:
        random = np.random.default_rng(data_seed)
        labels = np.arange(num_samples) % num_classes
        radius = np.sqrt(random.uniform(0.01, 1, num_samples))
        angle = 2 * np.pi * labels / num_classes + 5 * radius
        angle += noise_std * random.standard_normal(num_samples)
        points = 2 * radius * np.stack([np.cos(angle), np.sin(angle)])  # (2, N)
        is_wrong = random.uniform(size=num_samples) < wrong_labels
        labels = np.where(is_wrong, random.integers(num_classes, size=num_samples), labels)
        self.points = torch.from_numpy(points.T).float()
        self.labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index], self.labels[index]


class RareDisease(Dataset[tuple[Tensor, Tensor]]):
    """Two readings of healthy people (class 0) and of few that are ill (class 1), which overlap.

    A sample: x (2,) float32; its class, () int64.

    Args:
        num_samples: People.
        share: Share of those that are ill.
        distance: Between the means of both, in standard deviations.
        data_seed: Of the readings.
    """

    classes = ("healthy", "ill")

    def __init__(
        self,
        num_samples: int = 4000,
        share: float = 0.03,
        distance: float = 2.0,
        data_seed: int = 0,
    ) -> None:
        random = np.random.default_rng(data_seed)
        is_ill = random.uniform(size=num_samples) < share
        readings = random.standard_normal((num_samples, 2)) + distance / 2**0.5 * is_ill[:, None]
        self.readings = torch.from_numpy(readings).float()
        self.targets = torch.from_numpy(is_ill).long()  # what data.weighted_sampling looks at

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.readings[index], self.targets[index]


class Scenes(Dataset[tuple[Tensor, Tensor]]):
    """Grey images of bright squares, in noise, and the boxes around the squares.

    A sample: image (1, 32, 32) float32; boxes (M, 4) float32, as left, top, right, bottom in
    pixels, in no order; M, from ``least`` to ``most``, differs from image to image.

    Args:
        num_samples: Images.
        least: Squares of an image, at least.
        most: Squares of an image, at most.
    """

    def __init__(self, num_samples: int = 1000, least: int = 1, most: int = 6) -> None:
        random = np.random.default_rng(0)
        self.images = torch.from_numpy(
            0.5 * random.standard_normal((num_samples, 1, 32, 32))
        ).float()
        self.boxes: list[Tensor] = []
        for image in self.images:
            cells = random.choice(16, random.integers(least, most + 1), replace=False)
            size = random.integers(4, 7, len(cells))
            left, top = 8 * (cells % 4) + 1, 8 * (cells // 4) + 1  # one square a cell of 8 px
            self.boxes.append(
                torch.from_numpy(np.stack([left, top, left + size, top + size], 1)).float()
            )
            for x0, y0, x1, y1 in self.boxes[-1].int().tolist():
                image[0, y0:y1, x0:x1] += 1

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.boxes[index]


Samples = list[tuple[Tensor, Tensor]]


def listed(samples: Samples) -> tuple[Tensor, list[Tensor]]:
    """Stack images, and keep boxes as a list: (B, 1, H, W), B times (M, 4)."""
    images, boxes = zip(*samples, strict=True)
    return torch.stack(images), list(boxes)


def padded(samples: Samples) -> tuple[Tensor, Tensor]:
    """Stack images and boxes, filled up with NaN: (B, 1, H, W), (B, greatest M, 4)."""
    images, boxes = zip(*samples, strict=True)
    filled = nn.utils.rnn.pad_sequence(list(boxes), batch_first=True, padding_value=torch.nan)
    return torch.stack(images), filled


def first_box(samples: Samples) -> tuple[Tensor, Tensor]:
    """Stack images and the first box of each, the others are lost: (B, 1, H, W), (B, 1, 4)."""
    images, boxes = zip(*samples, strict=True)
    return torch.stack(images), torch.stack([some[:1] for some in boxes])


class Echo(Dataset[tuple[Tensor, Tensor]]):
    """Noise whose mean is asked for: x (T, 1) float32, y () float32 of unit variance.

    Args:
        num_samples: Sequences.
        length: Numbers T of a sequence.
    """

    def __init__(self, num_samples: int = 1000, length: int = 50) -> None:
        random = np.random.default_rng(0)
        self.x = torch.from_numpy(random.standard_normal((num_samples, length, 1))).float()
        self.y = self.x.mean((1, 2)) * length**0.5

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]
