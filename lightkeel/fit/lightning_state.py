"""The state of a running epoch that Lightning leaves out of checkpoints."""

import random
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultMetric,
    _Sync,
)
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torchmetrics import Metric, MetricCollection

# Of what `self.log` was given: all that is compared when it is given again.
LOGGED_AS = (
    *("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph"),
    *("add_dataloader_idx", "dataloader_idx", "metric_attribute"),
)
COMPUTE: Any = _ResultMetric.compute


def exact_means() -> AbstractContextManager[Any]:
    """Have ``self.log(..., sync_dist=True)`` average over samples where ranks have unlike numbers.

    Lightning rounds the mean number of samples of the ranks down: of 3 and 2, to 2.
    """
    return patch.object(_ResultMetric, "compute", mean_over_samples)


def mean_over_samples(result: _ResultMetric) -> Tensor:
    """``_ResultMetric.compute`` that keeps the fraction of the number of samples."""
    if not (result.is_tensor and result.meta.is_mean_reduction):
        return COMPUTE(result)  # type: ignore[no-any-return]
    value: Tensor = result.meta.sync(result.value.clone())
    return value / result.meta.sync(result.cumulated_batch_size.to(value.dtype))


def gather(trainer: Trainer, value: Any) -> list[Any]:
    """Collect a value of each rank on all of them, in their order."""
    if trainer.world_size == 1:
        return [value]
    values = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def random_states(device: torch.device) -> dict[str, Any]:
    """Read the global random numbers of torch, numpy and ``random`` in this process."""
    _, words, *rest = np.random.get_state()
    version, numbers, gauss = random.getstate()
    states = {
        "cpu": torch.get_rng_state(),
        "numpy": [torch.from_numpy(np.asarray(words).astype(np.int64)), *rest],
        "python": [version, torch.tensor(numbers), gauss],
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(states: Mapping[str, Any], device: torch.device) -> None:
    """Set the global random numbers of this process to what ``random_states`` has read."""
    torch.set_rng_state(states["cpu"])
    words, *rest = states["numpy"]
    np.random.set_state(("MT19937", words.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def layer_modes(trainer: Trainer) -> dict[str, list[str]]:
    """Name which layers are in evaluation mode, and which parameters are not trained.

    Hooks of a module or callback may have set that when the epoch began.
    """
    model = trainer.lightning_module
    training = {name: layer.training for name, layer in model.named_modules()}
    if trainer.validating:  # all are, for now
        training |= trainer.fit_loop.epoch_loop.val_loop._module_mode.mode
    return {
        "evaluated": [name for name, mode in training.items() if not mode],
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
    }


def restore_modes(trainer: Trainer, modes: Mapping[str, list[str]]) -> None:
    """Put layers and parameters into the modes that ``layer_modes`` has named."""
    for name, layer in trainer.lightning_module.named_modules():
        layer.training = name not in modes["evaluated"]
    for name, parameter in trainer.lightning_module.named_parameters():
        parameter.requires_grad = name not in modes["frozen"]


def reset_after(trainer: Trainer) -> set[int]:
    """Name, by identity, the metrics that Lightning resets once validation has ended."""
    results = trainer.fit_loop.epoch_loop.val_loop._results.values() if trainer.validating else ()
    return {id(result.value) for result in results if not result.is_tensor}


def metric_states(module: nn.Module, without: Collection[int] = ()) -> dict[str, Any]:
    """Copy the states of all metrics in a module that have been updated, on the CPU.

    Args:
        module: The module.
        without: Identities of metrics to leave out.
    """
    for part in module.modules():
        if isinstance(part, MetricCollection):
            part.items(keep_base=True)  # gives metrics that share a state their own
    return {
        name: {
            "updates": metric.update_count,
            "state": {key: _copy(value) for key, value in metric.metric_state.items()},
        }
        for name, metric in metrics_in(module).items()
        if metric.update_called and id(metric) not in without
    }


def restore_metrics(module: nn.Module, states: Mapping[str, Any]) -> None:
    """Put states back that ``metric_states`` has copied."""
    for name, metric in metrics_in(module).items():
        if name in states:
            metric._update_count = states[name]["updates"]
            for key, value in states[name]["state"].items():
                setattr(metric, key, _moved(value, metric.device))


def metrics_in(module: nn.Module) -> dict[str, Metric]:
    """List the metrics in a module by their names."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Metric)}


def attributes(module: LightningModule) -> dict[str, Any]:
    """Note the plain attributes of a module: values, and the lengths of lists and dicts."""
    of_all = vars(LightningModule())
    own = {name: value for name, value in vars(module).items() if name not in of_all}
    found = {n: v for n, v in own.items() if type(v) in (int, float, bool, str)}
    found |= {n: (len(v),) for n, v in own.items() if type(v) in (list, dict)}
    return found | {n: () for n, v in own.items() if type(v) is Tensor}


def changed_attributes(module: LightningModule, before: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the plain attributes of a module that are not as ``attributes`` has noted them."""
    now = attributes(module)
    changed = [name for name, value in now.items() if name not in before or before[name] != value]
    kept = {name: vars(module)[name] for name in changed}
    plain = (int, float, bool, str, Tensor, type(None))
    return {
        name: tree_map(_plain, value)
        for name, value in kept.items()
        if all(type(leaf) in plain for leaf in tree_leaves(value))
    }


def restore_attributes(module: LightningModule, states: Mapping[str, Any]) -> None:
    """Put attributes back that ``changed_attributes`` has copied."""
    for name, value in states.items():
        own = tree_map(lambda v: v.to(module.device) if isinstance(v, Tensor) else v, value)
        if type(own) is list and type(vars(module).get(name)) is list:
            vars(module)[name][:] = own  # others may hold it too
        else:
            setattr(module, name, own)


def logged_states(trainer: Trainer) -> list[dict[str, Any]]:
    """Copy what ``self.log`` has accumulated in this epoch of training."""
    states = []
    for key, result in trainer.fit_loop.epoch_loop._results.items():
        if result.has_reset:
            continue
        meta, sync = result.meta, result.meta.sync
        values = ("value", "cumulated_batch_size") if result.is_tensor else ()
        states.append(
            {
                "key": key,
                "meta": {name: getattr(meta, name) for name in LOGGED_AS},
                "reduce_fx": meta.reduce_fx.__name__,
                "sync_dist": sync.should,
                "rank_zero_only": sync.rank_zero_only,
                "updates": result.update_count,
                "last": _plain_copy(result._forward_cache),
                "values": {n: _copy(getattr(result, n)) for n in values if hasattr(result, n)},
            }
        )
    return states


def restore_logged(trainer: Trainer, states: Sequence[Mapping[str, Any]]) -> None:
    """Have ``self.log`` accumulate from where it was when ``logged_states`` copied it."""
    results, device = trainer.fit_loop.epoch_loop._results, trainer.strategy.root_device
    for state in states:
        meta = _Metadata(**state["meta"], reduce_fx=state["reduce_fx"])
        meta.sync = _Sync(
            fn=trainer.strategy.reduce,
            _should=state["sync_dist"],
            rank_zero_only=state["rank_zero_only"],
        )
        result = _ResultMetric(meta, is_tensor=bool(state["values"]))
        for name, value in state["values"].items():
            setattr(result, name, _moved(value, device))
        if not state["values"]:
            result.value = trainer.lightning_module.get_submodule(state["meta"]["metric_attribute"])
        result._update_count = state["updates"]
        result._forward_cache = None if state["last"] is None else _moved(state["last"], device)
        results[state["key"]] = result
    if states:  # else the first batch would count as the first of an epoch, which resets them
        trainer._logger_connector._first_loop_iter = False


def _plain(value: Any) -> Any:
    return _copy(value) if isinstance(value, Tensor) else value


def _plain_copy(value: Any) -> Tensor | None:
    return _copy(value) if isinstance(value, Tensor) else None


def _copy(value: Tensor | list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    return [part.detach().cpu() for part in value]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return [part.to(device) for part in value]
