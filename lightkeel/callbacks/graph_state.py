"""What a step changes besides weights: tensors at places that a graph knows, and Python."""

from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from lightning_utilities import apply_to_collection
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_mean

# Of metrics, what `leave` sees to.
NOTED = ("_computed", "_forward_cache", "_update_count", "has_reset")
# What says how others are found, what is in the kind of a step; buffers have places.
DERIVED = ("_buffers", "_metric_attributes", "_state_is_copy", "training")


class State:
    """Tensors that a step binds anew, at the places that a graph knows.

    Args:
        module: Its buffers, metrics and other tensors.
        results: What ``self.log`` accumulates, metrics too.
    """

    def __init__(self, module: nn.Module, results: Iterable[Metric]) -> None:
        self.metrics = [part for part in module.modules() if isinstance(part, Metric)] + [*results]
        self.counts = [metric.update_count for metric in self.metrics]
        self.updates: list[tuple[Metric, int, Any]] = []
        self.places: list[tuple[Any, str, Tensor]] = []
        for owner in {id(part): part for part in [*module.modules(), *self.metrics]}.values():
            found: dict[str, Any] = dict(owner.named_buffers(recurse=False))
            found |= {name: value for name, value in vars(owner).items() if name not in NOTED}
            self.places += [(owner, name, v) for name, v in found.items() if torch.is_tensor(v)]
        for metric in self.metrics:  # or nodes of the backward pass outlive the steps before
            metric._forward_cache = detached(metric._forward_cache)

    @torch.no_grad()
    def enter(self) -> None:
        """Bring what was bound anew, as by ``reset`` of a metric, to the place of the graph."""
        for owner, name, place in self.places:
            value = getattr(owner, name)
            if value is not place:
                place.copy_(value)
                setattr(owner, name, place)

    def settle(self) -> None:
        """Note what the step has changed, as part of it.

        Raises:
            ValueError: A metric computes with numbers that a graph would repeat.
        """
        self.enter()
        for metric, before in zip(self.metrics, self.counts, strict=True):
            if number := metric.update_count - before:
                last = detached(metric._forward_cache)
                if last is not None and dim_zero_mean in metric._reductions.values():
                    name = type(metric).__name__
                    raise ValueError(f"{name} averages by its number of updates. Use `update`")
                self.updates.append((metric, number, last))

    def leave(self, times: int) -> None:
        """Tell metrics that they were updated, ``times`` as often as in the step."""
        for metric, number, value in self.updates:
            metric._update_count += times * number
            metric._computed = None
            # Which `reset` has dropped. Others may keep it, and the next step overwrites it.
            metric._forward_cache = apply_to_collection(value, Tensor, Tensor.clone)
            if hasattr(metric, "has_reset"):
                metric.has_reset = False

    def give_up(self) -> None:
        """Bind what was bound before a capture that failed."""
        for owner, name, place in self.places:
            setattr(owner, name, place)


def detached(value: Any) -> Any:
    """Return what was computed without the way there."""
    return apply_to_collection(value, Tensor, Tensor.detach)


def plain(owners: dict[str, Any]) -> dict[str, Any]:
    """Return what objects hold in Python, by path: values, and what is in their collections."""
    return {
        f"{path}.{name}".removeprefix("."): content(value)
        for path, owner in owners.items()
        for name, value in vars(owner).items()
        if name not in NOTED + DERIVED and content(value) is not None
    }


def content(value: Any, is_within: bool = False) -> Any:
    """Return what can be compared later; None: nothing of a value, or of what it holds, can be."""
    if isinstance(value, (int, float, str, bool)):
        return value
    if isinstance(value, dict):
        return [(key, content(part, True)) for key, part in value.items()]
    if isinstance(value, (list, tuple, set, deque)):
        return [content(part, True) for part in value]
    return id(value) if is_within else None
