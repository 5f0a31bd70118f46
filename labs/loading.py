"""How fast a ``DataLoader`` is, by its options."""

import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.dataloader import NUM_IMAGES, Photos, loader_of, measure

from .lab import Result

SETTINGS: dict[str, dict[str, Any]] = {
    "`--data.num_workers 0`": {},
    "`--data.num_workers 1`": {"num_workers": 1},
    "`--data.num_workers 2`": {"num_workers": 2},
    "`--data.num_workers 4`": {"num_workers": 4},
    "`--data.num_workers 2 --data.prefetch_factor 8`": {"num_workers": 2, "prefetch_factor": 8},
    "`--data.num_workers 2 --data.persistent_workers true`": {
        "num_workers": 2,
        "persistent_workers": True,
    },
    "`--data.num_workers 2 --data.pin_memory true`": {"num_workers": 2, "pin_memory": True},
}
WAIT_S = 0.01


class Remote(Dataset[Any]):
    """Images that have to be waited for, as those of a server: no work for the processor."""

    def __len__(self) -> int:
        return NUM_IMAGES // 4

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(WAIT_S)
        return torch.zeros(3, 64, 64), index % 10


def loading(quick: bool) -> Result:
    """Take images/s and the time to the first batch, of photographs and of a server's images."""
    few: dict[str, Any] = {"subset": 64} if quick else {}
    kinds: dict[str, Dataset[Any]] = {"decoded": Photos(), "from a server": Remote()}
    table: dict[str, dict[str, list[float]]] = {label: {} for label in SETTINGS}
    for kind, dataset in kinds.items():
        loaders = {label: loader_of(dataset, **few, **more) for label, more in SETTINGS.items()}
        for label, times in measure(1 if quick else 3, loaders).items():
            count = len(loaders[label].dataset)
            table[label][f"{kind}, images/s"] = [count / whole for _, whole in times]
            table[label][f"{kind}, s to first batch"] = [first for first, _ in times]
    return Result(table)
