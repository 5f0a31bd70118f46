"""A network whose first layers were trained elsewhere."""

from typing import Any

import torch

from src.models import SimpleCNN

HEAD = "network.11."  # the last layer; all before it are the backbone


class FineTuned(SimpleCNN):
    """SimpleCNN that begins with the weights of another, but for its last layer.

    Args:
        weights: File of the other's state dict; null: begin as SimpleCNN does.
        kwargs: See ``SimpleCNN``.
    """

    def __init__(self, weights: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if weights:
            state = torch.load(weights, weights_only=True)
            backbone = {name: w for name, w in state.items() if not name.startswith(HEAD)}
            self.load_state_dict(backbone, strict=False)
