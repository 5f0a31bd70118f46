"""How weights begin."""

from typing import Literal

import torch
from torch import Tensor, nn


def initialize(network: nn.Module, scheme: Literal["default", "xavier", "he"]) -> None:
    """Initialize linear and convolution layers of ``network`` in place.

    Raises:
        ValueError: ``scheme`` is none of the three.
    """
    if scheme not in ("default", "xavier", "he"):
        raise ValueError(f"weight_init: {scheme!r} is none of `default`, `xavier`, `he`.")
    for layer in network.modules() if scheme != "default" else ():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            if scheme == "xavier":
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


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
