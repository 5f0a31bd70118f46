"""Replay the forward and backward pass of a training step as one CUDA graph."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning_utilities import apply_to_collection
from torch import Tensor, nn
from torchmetrics import Metric

from ..errors.checks import at_least
from .compile import WITH_CUDA_GRAPHS, Compile, accumulates
from .readings import scaler_of

Run = Callable[[], list[Tensor]]
Logged = list[tuple[str, Any, tuple[Any, ...], dict[str, Any]]]  # name, value, options
OFF = "Or switch it off: --callbacks.cuda_graph null"


class CUDAGraph(Callback):
    """Capture ``training_step`` and its backward pass once, and replay them as one launch.

    Tested by replays on the CPU only; no run on a GPU has confirmed it yet.

    For any module whose step is a fixed sequence of operations on batches of one shape: Python in
    ``training_step`` runs no more once it is captured, but for what it logs. Clipping, the
    optimizer, schedules and hooks run as ever (``on_before_zero_grad`` sees no gradients), and so
    does the whole step for a batch of another shape, such as the last of an epoch. Where parameters
    are frozen or modes of layers change, the step is captured anew. Kernels are those of the step.

    Args:
        warm_up_steps: Steps before the capture, in which libraries choose their kernels. In the
            last of them, a step that waits for the device is refused.

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
        self.step = step = GraphedStep(pl_module, self.warm_up_steps)
        pl_module.training_step = step.training_step  # type: ignore[method-assign]
        pl_module.backward = step.backward  # type: ignore[method-assign]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name in ("training_step", "backward"):
            vars(pl_module).pop(name, None)
        if self.step is not None:
            self.step.forget()
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
    if trainer.world_size > 1:
        return f"captures the step of one device, and there are {trainer.world_size}."
    if accumulates(trainer):
        return "does not capture gradients that are accumulated over batches."
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for mode in [c.mode for c in callbacks if isinstance(c, Compile)]:
        if mode in WITH_CUDA_GRAPHS:
            return f"captures no graphs within its own, which callbacks.compile.mode {mode} makes."
    if not pl_module.automatic_optimization:
        return f"{name} optimizes by hand, step by step in Python."
    if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
        return f"{name}.training_step takes batches from an iterator, in Python."
    if is_overridden("backward", pl_module, LightningModule):
        return f"{name} has a `backward` of its own, which would not run."
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
        self.module, self.warm_up_steps = module, warm_up_steps
        self.eager = module.training_step
        self.parts, self.parameters = [*module.modules()], [*module.parameters()]

        @wraps(self.eager)  # Lightning looks at its signature
        def training_step(*args: Any, **kwargs: Any) -> Any:
            return self._step(*args, **kwargs)

        self.training_step = training_step
        self.gradients: list[tuple[nn.Parameter, Tensor]] = []
        self.last: Any = None
        self.is_replayed = False
        self.forget()

    def forget(self) -> None:
        """Free the graph and what it computes; a new one is captured after steps to warm up."""
        for parameter, gradient in self.gradients:
            if parameter.grad is gradient:
                parameter.grad = None
        self.left = self.warm_up_steps
        self.replay: Callable[[], None] | None = None
        self.output: Any = None
        self.leaves: list[Tensor] = []
        self.logged: Logged = []
        self.gradients = []

    def _switches(self) -> list[bool]:
        """Say which layers are training, and which parameters."""
        return [p.training for p in self.parts] + [p.requires_grad for p in self.parameters]

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        # The number of the batch is of no shape; a step that depends on it is not a fixed one.
        batch, *rest = args
        leaves, kind = flattened(batch)
        is_usual, self.last = kind == self.last, kind
        if self.replay is not None and self._switches() != self.switches:
            self.forget()
        if not (self.replay or self.left) and is_usual and torch.is_grad_enabled():
            self._capture(batch, kind, rest, kwargs)
        self.is_replayed = self.replay is not None and kind == self.kind
        if self.replay is None or not self.is_replayed:
            return self._warm_up(*args, **kwargs)
        for static, leaf in zip(self.leaves, leaves, strict=True):
            static.copy_(leaf, non_blocking=True)
        for parameter, _ in self.gradients:
            parameter.grad = None  # or `zero_grad` could fill the new ones with zeros
        self.state.enter()
        self.replay()
        self.state.leave()
        self._log(self.logged)
        return apply_to_collection(self.output, Tensor, Tensor.clone)  # the next step overwrites it

    def _warm_up(self, *args: Any, **kwargs: Any) -> Any:
        self.left = max(self.left - 1, 0)
        if self.replay is not None or self.left:
            return self.eager(*args, **kwargs)
        log, quiet = recorded_log(self.module), no_waits(self.module.device)
        with explained(self.module), log as logged, quiet:
            output = self.eager(*args, **kwargs)
        self._log(logged)
        return output

    def _log(self, logged: Logged) -> None:
        for name, value, args, options in logged:
            self.module.log(name, value, *args, **options)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Take the gradients that the graph has computed, or compute them."""
        if not self.is_replayed:
            LightningModule.backward(self.module, loss, *args, **kwargs)
            return
        for parameter, gradient in self.gradients:
            parameter.grad = gradient

    def _capture(self, batch: Any, kind: Any, rest: list[Any], kwargs: Any) -> None:
        batch = apply_to_collection(batch, Tensor, Tensor.clone)
        self.kind, self.leaves, self.switches = kind, flattened(batch)[0], self._switches()

        def run() -> list[Tensor]:
            for parameter in self.parameters:
                parameter.grad = None
            output = self.eager(batch, *rest, **kwargs)
            loss = output["loss"] if isinstance(output, dict) else output
            if not isinstance(loss, Tensor):
                raise ValueError("it returned no loss")
            with torch.autocast(loss.device.type, enabled=False):
                loss.backward()  # type: ignore[no-untyped-call]
            self.state.settle()
            self.gradients = [(p, p.grad) for p in self.parameters if p.grad is not None]
            self.output = apply_to_collection(output, Tensor, Tensor.detach)
            logged = [value for _, value, *_ in self.logged if isinstance(value, Tensor)]
            return [*flattened(self.output)[0], *(g for _, g in self.gradients), *logged]

        before, drawn = plain(self.module), random_states()
        self.state = State(self.module)
        with explained(self.module), recorded_log(self.module) as self.logged:
            self.replay = record(run)
            if random_states() != drawn:
                raise ValueError("it draws random numbers on the CPU, which a graph would repeat")
        for attribute in sorted(name for name, _ in before.items() ^ plain(self.module).items()):
            raise ValueError(
                f"training_step changes `{attribute}`, which a graph would not. Keep it in a "
                f"tensor: by register_buffer, or as a state of a metric that is no list.\n{OFF}"
            )


class State:
    """Buffers and states of metrics that a step changes, at the places that a graph knows."""

    def __init__(self, module: nn.Module) -> None:
        self.metrics = [part for part in module.modules() if isinstance(part, Metric)]
        self.counts = [metric.update_count for metric in self.metrics]
        self.updates: list[tuple[Metric, int, Any]] = []
        self.places: list[tuple[Any, str, Tensor]] = []
        for owner in module.modules():
            found: dict[str, Any] = dict(owner.named_buffers(recurse=False))
            found |= owner.metric_state if isinstance(owner, Metric) else {}
            self.places += [(owner, name, v) for name, v in found.items() if torch.is_tensor(v)]

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
        updated = [(m, n) for m, n in zip(self.metrics, added, strict=True) if n]
        self.updates = [(metric, number, metric._forward_cache) for metric, number in updated]
        for metric, number in updated:
            metric._update_count -= number
        others = {id(part) for part in self.metrics} - {id(metric) for metric, _ in updated}
        self.places = [place for place in self.places if id(place[0]) not in others]

    def leave(self) -> None:
        """Tell metrics that they were updated."""
        for metric, number, value in self.updates:
            metric._update_count += number
            metric._computed = None
            metric._forward_cache = value  # which `reset` has dropped


def record(run: Run) -> Callable[[], None]:
    """Capture what ``run`` does on the GPU, without doing it; returns what does it."""
    graph, first = torch.cuda.CUDAGraph(), None
    try:
        # Threads of loggers and loaders may go on.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            try:
                run()
            except Exception as error:
                first = error  # PyTorch ends the capture with another, which does not say why
                raise
    except RuntimeError as error:
        raise first or error from None
    return graph.replay


@contextmanager
def explained(module: LightningModule) -> Iterator[None]:
    """Say of an error that it keeps the step from being captured."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        why = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        name = type(module).__name__
        raise ValueError(f"{name}.training_step cannot be captured: {why}.\n{OFF}") from error


@contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    """Raise ``RuntimeError`` where the host waits for a GPU, as by ``.item()``."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def recorded_log(module: LightningModule) -> Iterator[Logged]:
    """Keep what is logged by name, value and options, instead of logging it."""
    kept: Logged = []

    def log(name: str, value: Any, *args: Any, **options: Any) -> None:
        is_number = not isinstance(value, (Tensor, Metric))
        if is_number or (isinstance(value, Tensor) and value.device.type != module.device.type):
            what = "a number" if is_number else f"a tensor on {value.device}"
            raise ValueError(f"it logs `{name}` as {what}, which a graph would repeat")
        value = value.detach() if isinstance(value, Tensor) else value
        kept.append((name, value, args, options))

    vars(module)["log"] = log
    try:
        yield kept
    finally:
        del vars(module)["log"]


def flattened(batch: Any) -> tuple[list[Tensor], Any]:
    """Return the tensors in a batch, and what must not change for a graph to be replayed on it."""
    tensors: list[Tensor] = []

    def kind_of(tensor: Tensor) -> Any:
        tensors.append(tensor)
        return tensor.shape, tensor.dtype, tensor.device, tensor.stride()

    return tensors, apply_to_collection(batch, Tensor, kind_of)


def plain(module: nn.Module) -> dict[str, Any]:
    """Return plain values, and how much is in a collection, of a module and all of its parts."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        values = part.metric_state if isinstance(part, Metric) else vars(part)
        for name, value in values.items():
            key = f"{path}.{name}".removeprefix(".")
            if isinstance(value, (int, float, str, bool)):
                found[key] = value
            elif isinstance(value, (list, dict, set, deque)):
                found[key] = len(value)
    return found


def random_states() -> Any:
    """Return the states of the generators of the CPU."""
    return torch.get_rng_state().tolist(), repr(numpy.random.get_state()), random.getstate()
