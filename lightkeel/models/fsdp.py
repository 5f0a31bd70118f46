"""Shard the weights of a model over its devices."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.optim import Optimizer


class FullySharded(ModelParallelStrategy):
    """Keep a shard of the weights, gradients and optimizer's state on each device.

    Lightning's own ``fsdp`` does it by PyTorch's first implementation, for GPUs alone; this one by
    its second, ``fully_shard``. Checkpoints are one file with all weights, for any strategy.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        model = self.lightning_module
        assert model is not None
        if not is_overridden("configure_model", model):  # a model may know a better way
            mesh = self.device_mesh["data_parallel"]
            model.configure_model = partial(_shard, model, mesh)  # type: ignore[method-assign]

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        # Lightning's takes an optimizer's numbers for places in the model, not in the groups; and
        # fails where an optimizer has no state.
        path = self.broadcast(checkpoint_path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=weights_only)
        model = self.lightning_module
        assert model is not None
        whole_state = StateDictOptions(full_state_dict=True)
        set_model_state_dict(model, checkpoint["state_dict"], options=whole_state)
        if model.trainer.training:
            states = checkpoint["optimizer_states"]
            for optimizer, state in zip(self.optimizers, states, strict=True):
                _load_sharded(optimizer, state)
        return checkpoint


def _load_sharded(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Set an optimizer to a state of whole parameters, sharded as they are."""
    groups = state["param_groups"], optimizer.param_groups
    numbers, parameters = ([p for group in some for p in group["params"]] for some in groups)
    for number, parameter in zip(numbers, parameters, strict=True):
        values = state["state"].get(number, {})
        for name, value in values.items():
            if getattr(value, "shape", None) == parameter.shape:
                mesh, placements = parameter.device_mesh, parameter.placements
                values[name] = distribute_tensor(value.to(mesh.device_type), mesh, placements)
    optimizer.load_state_dict(state)


def _shard(model: LightningModule, mesh: DeviceMesh) -> None:
    """Shard each layer's parameters; they are gathered for as long as it computes."""
    for layer in list(model.modules()):
        if isinstance(layer, FSDPModule) or next(layer.parameters(recurse=False), None) is None:
            continue
        for parameter in layer.parameters(recurse=False):
            parameter.data = parameter.data.contiguous()  # it takes no other, such as channels_last
        sharded = fully_shard(layer, mesh=mesh)
        if mesh.device_type == "cpu":
            sharded.set_force_sum_reduction_for_comms(True)  # gloo has no mean


def whole(parameter: Tensor) -> Tensor:
    """Gather a parameter that is sharded; all ranks must ask together. Others are as they are."""
    found: Tensor = getattr(parameter, "full_tensor", parameter.detach)()
    return found.detach()
