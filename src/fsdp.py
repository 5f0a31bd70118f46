"""Share the weights of a model out over its devices."""

from functools import partial

from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard


class FullySharded(ModelParallelStrategy):
    """Keep a part of the weights, gradients and optimizer's state on each device.

    Lightning's own ``fsdp`` does it by PyTorch's first implementation, for GPUs alone; this one by
    its second, ``fully_shard``. Checkpoints are one file with all weights, for any strategy.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()
        model = self.lightning_module
        assert model is not None
        if not is_overridden("configure_model", model):  # a model may know a better way
            mesh = self.device_mesh["data_parallel"]
            model.configure_model = partial(shard, model, mesh)  # type: ignore[method-assign]


def shard(model: LightningModule, mesh: DeviceMesh) -> None:
    """Share out each layer's parameters; they are brought together for as long as it computes."""
    for layer in list(model.modules()):
        if isinstance(layer, FSDPModule) or next(layer.parameters(recurse=False), None) is None:
            continue
        fully_shard(layer, mesh=mesh)
        if mesh.device_type == "cpu":
            layer.set_force_sum_reduction_for_comms(True)  # gloo has no mean
