"""What a step changes besides weights, at the places in memory that a graph knows."""

from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from lightning_utilities import apply_to_collection
from torch import Tensor, nn
from torchmetrics import Metric


class State:
    """Buffers and states of metrics that a step changes, at the places that a graph knows.

    Args:
        module: Its buffers, and its metrics.
        results: What ``self.log`` accumulates, metrics too.
    """

    def __init__(self, module: nn.Module, results: Iterable[Metric]) -> None:
        self.metrics = [part for part in module.modules() if isinstance(part, Metric)] + [*results]
        self.counts = [metric.update_count for metric in self.metrics]
        self.updates: list[tuple[Metric, int, Any]] = []
        self.places: list[tuple[Any, str, Tensor]] = []
        for owner in {id(part): part for part in [*module.modules(), *self.metrics]}.values():
            found: dict[str, Any] = dict(owner.named_buffers(recurse=False))
            found |= owner.metric_state if isinstance(owner, Metric) else {}
            self.places += [(owner, name, v) for name, v in found.items() if torch.is_tensor(v)]

    def enter(self) -> None:
        """Bring what was bound anew, as by ``reset`` of a metric, to the place of the graph."""
        for owner, name, place in self.places:
            value = getattr(owner, name)
            if value is not place:
                place.copy_(value)
                setattr(owner, name, place)

    def settle(self) -> None:
        """Note what the step has changed, as part of it."""
        self.enter()
        added = [m.update_count - n for m, n in zip(self.metrics, self.counts, strict=True)]
        updated = [(m, n) for m, n in zip(self.metrics, added, strict=True) if n]
        self.updates = [(metric, number, metric._forward_cache) for metric, number in updated]
        others = {id(part) for part in self.metrics} - {id(metric) for metric, _ in updated}
        self.places = [place for place in self.places if id(place[0]) not in others]

    def leave(self, times: int) -> None:
        """Tell metrics that they were updated, ``times`` as often as in the step."""
        for metric, number, value in self.updates:
            metric._update_count += times * number
            metric._computed = None
            # Which `reset` has dropped. Others may keep it, and the next step overwrites it.
            metric._forward_cache = apply_to_collection(value, Tensor, Tensor.clone)
            if hasattr(metric, "has_reset"):
                metric.has_reset = False


def plain(owners: dict[str, Any]) -> dict[str, Any]:
    """Return plain values of objects by path, and how much is in a collection of theirs."""
    found: dict[str, Any] = {}
    for path, owner in owners.items():
        values = owner.metric_state if isinstance(owner, Metric) else vars(owner)
        for name, value in values.items():
            key = f"{path}.{name}".removeprefix(".")
            if isinstance(value, (int, float, str, bool)):
                found[key] = value
            elif isinstance(value, (list, dict, set, deque)):
                found[key] = len(value)
    return found
