"""Compile a model when training begins."""

from typing import Literal, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
WITH_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")


class Compile(Callback):
    """Compile the ``forward`` of any model, and of each direct part that has weights.

    In place, by ``torch.nn.Module.compile``, so keys of checkpoints stay as they are; what calls
    one another is compiled as one. On several devices parts alone are compiled, for there the model
    is called with its ``training_step`` in the place of ``forward``. On GPUs, gradients can be
    accumulated over batches in modes without CUDA graphs alone.

    Args:
        mode: See ``torch.compile``.
    """

    def __init__(self, mode: Mode = "default") -> None:
        if mode not in get_args(Mode):
            choices = "`, `".join(get_args(Mode))
            raise ValueError(f"mode: {mode!r} is none of `{choices}`.")
        self.mode = mode

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        on_gpu = trainer.strategy.root_device.type == "cuda"
        is_graph = on_gpu and self.mode in WITH_CUDA_GRAPHS
        if is_graph and accumulates(trainer):
            raise ValueError(
                f"mode: {self.mode} uses CUDA graphs, in which each batch would overwrite the "
                "gradients of the one before, which are to be accumulated.\n"
                "Use `default` or `max-autotune-no-cudagraphs`, or accumulate over one batch."
            )
        parts = [part for part in pl_module.children() if any(True for _ in part.parameters())]
        for module in [pl_module, *parts] if trainer.world_size == 1 else parts:
            module.compile(mode=self.mode)


def accumulates(trainer: Trainer) -> bool:
    """Tell whether gradients are accumulated over batches in any epoch."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    schedules = [c for c in callbacks if isinstance(c, GradientAccumulationScheduler)]
    by_epoch = any(c.going_to_accumulate_grad_batches() for c in schedules)
    return by_epoch or trainer.accumulate_grad_batches > 1
