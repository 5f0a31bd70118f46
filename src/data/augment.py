"""Random changes of training images, on whole batches, on the device the batch is on.

Every public function here can be named in ``data.augment``. It takes images (B, H, W, C) uint8,
draws (B, 4) uniform in [0, 1), one row a sample, and its settings, and returns new images of the
same shape and type. All randomness is in the draws: nothing else may differ between two calls.
"""

import torch
from torch import Tensor


def random_crop(images: Tensor, draws: Tensor, pad_px: int = 2) -> Tensor:
    """Shift each image by up to ``pad_px`` down, up, right and left, filling by reflection.

    Raises:
        ValueError: ``pad_px`` is not in [0, min(H, W)).
    """
    _, height, width, _ = images.shape
    if not 0 <= pad_px < min(height, width):
        raise ValueError(f"pad_px: {pad_px} is not in [0, {min(height, width)}).")
    shifts = (draws[:, :2] * (2 * pad_px + 1)).long() - pad_px

    def reflected(shifts: Tensor, length: int) -> Tensor:
        """Count ``length`` places from shifts (B, 1), back again beyond an edge: (B, length)."""
        places = (torch.arange(length, device=shifts.device) + shifts).abs()
        return torch.where(places < length, places, 2 * (length - 1) - places)

    rows, columns = reflected(shifts[:, :1], height), reflected(shifts[:, 1:], width)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return images[batch, rows[:, :, None], columns[:, None, :]]


def horizontal_flip(images: Tensor, draws: Tensor, probability: float = 0.5) -> Tensor:
    """Mirror each image left to right with ``probability``.

    Raises:
        ValueError: ``probability`` is not in [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability: {probability} is not in [0, 1].")
    chosen = draws[:, 0] < probability
    return torch.where(chosen[:, None, None, None], images.flip(2), images)


def alternating_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror each image left to right in every other epoch; half of them begin mirrored.

    Two epochs show both forms of each image, where independent flips repeat one for half of them
    (Jordan 2024, arXiv 2404.00498). The draws take turns: see ``draw`` in ``images.py``.
    """
    return horizontal_flip(images, draws, 0.5)
