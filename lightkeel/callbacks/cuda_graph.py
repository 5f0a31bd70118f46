"""Replay the forward and backward pass of a training step as one CUDA graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchmetrics import Metric

from ..errors.checks import at_least
from .readings import scaler_of

Run = Callable[[], list[Tensor]]
OFF = "Or switch it off: --callbacks.cuda_graph null"


class CUDAGraph(Callback):
    """Capture ``training_step`` and its backward pass once, and replay them as one launch.

    For any module whose step is a fixed sequence of operations on batches of one shape: Python in
    ``training_step`` runs no more once it is captured, but for what it logs. All hooks, clipping,
    the optimizer and schedules run as ever, and so does the whole step for a batch of another
    shape, such as the last of an epoch. Kernels are the same, so weights are bit for bit.

    Args:
        warm_up_steps: Steps before the capture, in which libraries choose their kernels.

    Raises:
        ValueError: Something in the run cannot be captured.
    """

    def __init__(self, warm_up_steps: int = 3) -> None:
        at_least(1, warm_up_steps=warm_up_steps)
        self.warm_up_steps = warm_up_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if wrong := obstacle(trainer, pl_module):
            raise ValueError(f"{wrong}\n{OFF}")
        step = GraphedStep(pl_module, self.warm_up_steps)
        pl_module.training_step = step.training_step  # type: ignore[method-assign]
        pl_module.backward = step.backward  # type: ignore[method-assign]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name in ("training_step", "backward"):
            vars(pl_module).pop(name, None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.on_train_end(trainer, pl_module)


def obstacle(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Say what in a run keeps its step from being captured, if anything does."""
    device, batches = trainer.strategy.root_device.type, trainer.accumulate_grad_batches
    if device != "cuda":
        return f"needs an NVIDIA GPU, and the run is on {device}."
    if trainer.world_size > 1:
        return f"captures the step of one device, and there are {trainer.world_size}."
    if batches > 1:
        return f"does not capture gradients that are accumulated, over {batches} batches here."
    if not pl_module.automatic_optimization:
        return f"{type(pl_module).__name__} optimizes by hand, step by step in Python."
    if is_overridden("backward", pl_module, LightningModule):
        return f"{type(pl_module).__name__} has a `backward` of its own, which would not run."
    if scaler_of(trainer) is not None:
        return "16-bit precision scales losses by a number that changes. Use bf16-mixed."
    return None


class GraphedStep:
    """A ``training_step`` that includes the backward pass where it is replayed.

    Args:
        module: The module, whose own methods run until the capture and for other shapes.
        warm_up_steps: Steps that run as they are first.
    """

    def __init__(self, module: LightningModule, warm_up_steps: int) -> None:
        self.module, self.left = module, warm_up_steps
        self.eager = module.training_step

        @wraps(self.eager)  # Lightning looks at its signature
        def training_step(*args: Any, **kwargs: Any) -> Any:
            return self._step(*args, **kwargs)

        self.training_step = training_step
        self.replay: Callable[[], None] | None = None
        self.is_replayed = False

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        # The number of the batch is of no shape; a step that depends on it is not a fixed one.
        batch, *rest = args
        leaves, structure = tree_flatten(batch)
        kind = structure, [kind_of(leaf) for leaf in leaves]
        if self.replay is None and self.left == 0 and torch.is_grad_enabled():
            self._capture(leaves, kind, rest, kwargs)
        self.left = max(self.left - 1, 0)
        self.is_replayed = self.replay is not None and kind == self.kind
        if not self.is_replayed:
            return self.eager(*args, **kwargs)
        assert self.replay is not None
        for static, leaf in zip(self.leaves, leaves, strict=True):
            if isinstance(leaf, Tensor):
                static.copy_(leaf, non_blocking=True)
        self.state.enter()
        self.replay()
        self.state.leave()
        for name, value, options in self.logged:
            self.module.log(name, value, **options)
        return self.output

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Take the gradients that the graph has computed, or compute them."""
        if not self.is_replayed:
            LightningModule.backward(self.module, loss, *args, **kwargs)
            return
        for parameter, gradient in self.gradients:
            parameter.grad = gradient

    def _capture(self, leaves: list[Any], kind: Any, rest: list[Any], kwargs: Any) -> None:
        self.kind = kind
        self.leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        batch = tree_unflatten(self.leaves, kind[0])
        parameters = [p for p in self.module.parameters() if p.requires_grad]

        def run() -> list[Tensor]:
            for parameter in parameters:
                parameter.grad = None
            output = self.eager(batch, *rest, **kwargs)
            loss = output["loss"] if isinstance(output, dict) else output
            if not isinstance(loss, Tensor):
                raise ValueError("it returned no loss")
            with torch.autocast(loss.device.type, enabled=False):
                loss.backward()  # type: ignore[no-untyped-call]
            self.state.settle()
            self.gradients = [(p, p.grad) for p in parameters if p.grad is not None]
            detached = loss.detach()
            self.output = {**output, "loss": detached} if isinstance(output, dict) else detached
            logged = [value for _, value, _ in self.logged if not isinstance(value, Metric)]
            return [detached, *(gradient for _, gradient in self.gradients), *logged]

        before = plain(self.module)
        self.state = State(self.module)
        with recorded_log(self.module) as self.logged:
            try:
                self.replay = record(run)
            except (RuntimeError, ValueError) as error:
                name, why = type(self.module).__name__, str(error).strip().splitlines()[0]
                raise ValueError(
                    f"{name}.training_step cannot be captured: {why}.\n{OFF}"
                ) from error
        for attribute, value in plain(self.module).items():
            if before.get(attribute) != value:
                raise ValueError(
                    f"training_step changes `{attribute}`, which a graph would not. Make it a "
                    f"buffer, by register_buffer.\n{OFF}"
                )


class State:
    """Buffers and states of metrics that a step changes, at the places that a graph knows."""

    def __init__(self, module: nn.Module) -> None:
        self.metrics = [part for part in module.modules() if isinstance(part, Metric)]
        self.counts = [metric.update_count for metric in self.metrics]
        self.updates: list[tuple[Metric, int]] = []
        self.places: list[tuple[Any, str, Tensor]] = []
        for owner in module.modules():
            names = list(owner._buffers)
            names += list(owner._defaults) if isinstance(owner, Metric) else []
            found = [(name, getattr(owner, name)) for name in names]
            self.places += [(owner, name, value) for name, value in found if torch.is_tensor(value)]

    def enter(self) -> None:
        """Bring what was bound anew, as by ``reset`` of a metric, to the place of the graph."""
        for owner, name, place in self.places:
            value = getattr(owner, name)
            if value is not place:
                place.copy_(value)
                setattr(owner, name, place)

    def settle(self) -> None:
        """Note what the step has changed, as part of it."""
        self.enter()
        counts = [metric.update_count for metric in self.metrics]
        added = [now - before for now, before in zip(counts, self.counts, strict=True)]
        self.updates = [(m, n) for m, n in zip(self.metrics, added, strict=True) if n]
        for metric, number in self.updates:
            metric._update_count -= number
        updated = [metric for metric, _ in self.updates]
        others = [part for part in self.metrics if not any(part is metric for metric in updated)]
        self.places = [p for p in self.places if not any(p[0] is part for part in others)]

    def leave(self) -> None:
        """Tell metrics that they were updated."""
        for metric, number in self.updates:
            metric._update_count += number
            metric._computed = None


def record(run: Run) -> Callable[[], None]:
    """Capture what ``run`` does on the GPU, without doing it; returns what does it."""
    graph = torch.cuda.CUDAGraph()
    # Threads of loggers and loaders may go on.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay  # type: ignore[no-any-return]


@contextmanager
def recorded_log(module: LightningModule) -> Iterator[list[tuple[str, Any, dict[str, Any]]]]:
    """Keep what is logged by name, value and options, instead of logging it."""
    kept: list[tuple[str, Any, dict[str, Any]]] = []

    def log(name: str, value: Any, **options: Any) -> None:
        if not isinstance(value, (Tensor, Metric)):
            raise ValueError(f"it logs `{name}` as a number, which a graph would repeat")
        kept.append((name, value.detach() if isinstance(value, Tensor) else value, options))

    vars(module)["log"] = log
    try:
        yield kept
    finally:
        del vars(module)["log"]


def kind_of(leaf: Any) -> Any:
    """Say what must not change for a graph to be replayed on a part of a batch."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device, leaf.stride()
    return leaf


def plain(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that are plain values."""
    return {n: v for n, v in vars(module).items() if isinstance(v, (int, float, str, bool))}
