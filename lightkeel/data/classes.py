"""Which classes there are in a data set, and how often each is drawn."""

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from .sampling import balancing_weights


def sampling_weights(dataset: Any, weighted: bool | Callable[[Any], Any]) -> Tensor | None:
    """Weigh samples by a function's classes or weights, or their ``targets``: (N,) float64."""
    if not weighted:
        return None
    found = values(targets_of(dataset) if weighted is True else weighted(dataset))
    if found.shape != (len(dataset),):
        wrong = f"{list(found.shape)} classes or weights for {len(dataset)} samples."
        raise ValueError(f"weighted_sampling: {wrong} Give one for each.")
    if found.dtype.kind != "f" or weighted is True:
        classes = found if found.dtype.kind == "f" else np.unique(found, return_inverse=True)[1]
        return balancing_weights(torch.from_numpy(classes))
    if not (np.isfinite(found).all() and found.min() >= 0 and found.sum() > 0):
        raise ValueError("weighted_sampling: a weight is negative, NaN or infinite, or all are 0.")
    return torch.from_numpy(found).double()


def targets_of(dataset: Any) -> Any:
    """Read the targets of a data set, and of those that are joined or chosen from."""
    if isinstance(dataset, Subset):
        return targets_of(dataset.dataset)[list(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([targets_of(part) for part in dataset.datasets])
    found = values(getattr(dataset, "targets", None))
    if found.shape != (len(dataset),):
        lacks = f"has no `targets` with a class for each of its {len(dataset)} samples."
        how = "Give the path of a function that makes classes or weights of the data set."
        raise ValueError(f"weighted_sampling: {type(dataset).__name__} {lacks} {how}")
    return found


def values(given: Any) -> Any:
    """Return numbers or strings as an array; one without axes where they are something else."""
    try:
        found = np.asarray(given)
    except ValueError:  # lists of unlike lengths
        found = np.asarray(None)
    return np.empty(()) if found.dtype.hasobject else found


def classes_of(dataset: Any, option: str) -> list[str] | None:
    """Read the names of classes that a data set has, and those that are joined or chosen from."""
    if isinstance(dataset, Subset):
        return classes_of(dataset.dataset, option)
    if isinstance(dataset, ConcatDataset):
        parts = {f"{option}[{n}]": part for n, part in enumerate(dataset.datasets)}
        return same_classes({name: classes_of(part, name) for name, part in parts.items()})
    found = getattr(dataset, "classes", None)
    return [str(name) for name in found] if isinstance(found, (list, tuple)) else None


def same_classes(named: dict[str, list[str] | None]) -> list[str] | None:
    """Return the classes that all know who know any; raise ``ValueError`` where they differ."""
    known = {name: classes for name, classes in named.items() if classes}
    first, expected = next(iter(known.items()), ("", None))
    for name, classes in known.items():
        for number, (here, there) in enumerate(zip_longest(classes, expected or [])):
            if here != there:
                wrong = f"its class {number} is {here}, but {there} in {first}."
                raise ValueError(f"{name}: {wrong} Number the classes alike.")
    return expected
