"""How weights begin."""

from typing import Literal

from torch import nn


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
