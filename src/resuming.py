"""The state of a running epoch that Lightning leaves out of checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import MetricCollection


def gather(trainer: Trainer, value: Any) -> list[Any]:
    """Collect a value of each rank on all of them, in their order."""
    if trainer.world_size == 1:
        return [value]
    values = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def metric_states(metrics: MetricCollection) -> dict[str, Any]:
    """Copy the states of metrics that have been updated, on the CPU, as plain values."""
    return {
        name: {
            "updates": metric.update_count,
            "state": {key: _copy(value) for key, value in metric.metric_state.items()},
        }
        for name, metric in metrics.items(keep_base=True)
        if metric.update_called
    }


def restore_metrics(metrics: MetricCollection, states: Mapping[str, Any]) -> None:
    """Put states back that ``metric_states`` has copied."""
    for name, metric in metrics.items(keep_base=True):
        if name in states:
            metric._update_count = states[name]["updates"]
            for key, value in states[name]["state"].items():
                setattr(metric, key, _moved(value, metric.device))


def _copy(value: Tensor | list[Tensor]) -> Any:
    return value.cpu().clone() if isinstance(value, Tensor) else [part.cpu() for part in value]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return [part.to(device) for part in value]
