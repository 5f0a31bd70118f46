"""What training has changed in a module beside its weights: metrics, modes, plain attributes."""

from collections.abc import Collection, Mapping
from typing import Any

from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

PLAIN = (int, float, bool, str)


def copied(value: Any) -> Any:
    """Copy a value or collection, with tensors on the CPU."""
    return apply_to_collection(value, Tensor, lambda part: part.detach().cpu().clone())


def is_plain(value: Any) -> bool:
    """Tell whether a checkpoint can hold a value that anybody can load."""
    if type(value) in (list, tuple, dict):
        return all(map(is_plain, value.values() if isinstance(value, dict) else value))
    return type(value) in (*PLAIN, Tensor, type(None))


def modes(module: nn.Module, known: Mapping[str, bool]) -> dict[str, list[str]]:
    """Name which layers are in evaluation mode, and which parameters are frozen.

    ``known`` tells whether a layer is training, where it is not as it will be.
    """
    training = {name: layer.training for name, layer in module.named_modules()} | {**known}
    return {
        "evaluated": [name for name, mode in training.items() if not mode],
        "frozen": [name for name, p in module.named_parameters() if not p.requires_grad],
    }


def restore_modes(module: nn.Module, states: Mapping[str, list[str]]) -> None:
    """Put layers and parameters into the modes that ``modes`` has named."""
    for name, layer in module.named_modules():
        layer.training = name not in states["evaluated"]
    for name, parameter in module.named_parameters():
        parameter.requires_grad = name not in states["frozen"]


def metrics_in(module: nn.Module) -> dict[str, Metric]:
    """List the metrics in a module by their names."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Metric)}


def metric_states(module: nn.Module, without: Collection[int] = ()) -> dict[str, Any]:
    """Copy the states of updated metrics, but those ``without`` (identities), on the CPU."""
    for part in module.modules():
        if isinstance(part, MetricCollection):
            part.items(keep_base=True)  # gives metrics that share a state their own
    return {
        name: {"updates": metric.update_count, "state": copied(dict(metric.metric_state))}
        for name, metric in metrics_in(module).items()
        if metric.update_called and id(metric) not in without
    }


def attributes(module: LightningModule) -> dict[str, Any]:
    """Note the plain attributes of a module: values, and the lengths of lists and dicts."""
    of_all = vars(LightningModule())
    own = {name: value for name, value in vars(module).items() if name not in of_all}
    found = {n: v for n, v in own.items() if type(v) in PLAIN}
    found |= {n: (len(v),) for n, v in own.items() if type(v) in (list, dict)}
    return found | {n: () for n, v in own.items() if type(v) is Tensor}


def changed_attributes(module: LightningModule, before: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the plain attributes of a module that are not as ``attributes`` has noted them."""
    now, own = attributes(module), vars(module)
    changed = [name for name, value in now.items() if name not in before or before[name] != value]
    return {name: copied(own[name]) for name in changed if is_plain(own[name])}


def restore_attributes(module: LightningModule, states: Mapping[str, Any]) -> None:
    """Put attributes back that ``changed_attributes`` has copied."""
    for name, value in states.items():
        own = move_data_to_device(value, module.device)
        if type(own) is list and type(vars(module).get(name)) is list:
            vars(module)[name][:] = own  # others may hold it too
        else:
            setattr(module, name, own)
