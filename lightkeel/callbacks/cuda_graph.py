"""The training step as one CUDA graph: captured once, then replayed as one launch."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from ..errors.checks import at_least
from .compile import WITH_CUDA_GRAPHS, Compile
from .graph_capture import OFF
from .graphed_step import GraphedStep
from .readings import scaler_of


class CUDAGraph(Callback):
    """Capture a training step once, and replay it as one launch: for one NVIDIA GPU.

    Tested by replays on the CPU only; no run on a GPU has confirmed it yet.

    A step is ``training_step``, the backward pass, clipping and other hooks, and what is logged,
    for any module whose steps are a fixed sequence of operations on batches of one shape. Python in
    it runs no more once it is captured. The optimizer steps as ever, since numbers that schedules
    change (``OneCycleLR``: momenta too) are Python's. Kernels are those of the step, and so are all
    bits of its results.

    Steps of several kinds have graphs of their own: those that write a row of metrics, the first,
    middle and last of accumulated batches, those after layers were frozen. Some run as ever: the
    first of an epoch and after validation, the last batch if it is smaller, the last window of
    accumulated batches, and those of a ninth kind. Where hooks change in Python what steps compute
    with, they are captured anew in the next epoch.

    Args:
        warm_up_steps: Steps of each kind before its capture, in which libraries choose their
            kernels. In the last of several, a step that waits for the device is refused.

    Raises:
        ValueError: Something in the run cannot be captured.
    """

    def __init__(self, warm_up_steps: int = 3) -> None:
        at_least(1, warm_up_steps=warm_up_steps)
        self.warm_up_steps = warm_up_steps
        self.step: GraphedStep | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if wrong := obstacle(trainer, pl_module):
            raise ValueError(f"{wrong}\n{OFF}")
        self.step = GraphedStep(trainer, pl_module, self.warm_up_steps)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.step is not None:
            self.step.is_first = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.step is not None:
            self.step.end()
            self.step = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.on_train_end(trainer, pl_module)


def obstacle(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Say what in a run keeps its step from being captured, if anything does."""
    device, name = trainer.strategy.root_device.type, type(pl_module).__name__
    if device != "cuda":
        return f"needs an NVIDIA GPU, and the run is on {device}."
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        return f"captures steps of one device alone, not of {type(trainer.strategy).__name__}."
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for mode in [c.mode for c in callbacks if isinstance(c, Compile)]:
        if mode in WITH_CUDA_GRAPHS:
            return f"captures no graphs within its own, which callbacks.compile.mode {mode} makes."
    if not pl_module.automatic_optimization:
        return f"{name} optimizes by hand, step by step in Python."
    if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
        return f"{name}.training_step takes batches from an iterator, in Python."
    if is_overridden("optimizer_step", pl_module, LightningModule):
        return f"{name} has an `optimizer_step` of its own, in Python."
    if scaler_of(trainer) is not None:
        return "16-bit precision scales losses by a number that changes. Use bf16-mixed."
    return None
