"""Filters that whiten patches of images."""

import torch
from torch import Tensor


def whitening_filters(images: Tensor, patch_px: int, eps: float) -> Tensor:
    """Compute filters whose outputs on patches of images are uncorrelated, of variance one.

    Args:
        images: (N, C, H, W) float, of mean about zero.
        patch_px: Side P of a patch.
        eps: Added to the variance of each direction.

    Returns:
        (2 C P^2, C, P, P): the filters and their negatives, of the greatest variance first.
    """
    channels = images.shape[1]
    patches = images.float().unfold(2, patch_px, 1).unfold(3, patch_px, 1)
    flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * patch_px**2)
    variances, directions = torch.linalg.eigh(flat.T @ flat / len(flat))
    scaled = directions.T / torch.sqrt(variances + eps)[:, None]
    filters = scaled.flip(0).reshape(-1, channels, patch_px, patch_px)
    return torch.cat([filters, -filters])
