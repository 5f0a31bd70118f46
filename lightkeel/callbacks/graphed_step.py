"""A training step that is captured as a CUDA graph, and replayed."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import numpy
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities import apply_to_collection
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from .graph_state import State, plain
from .readings import is_row_due

Run = Callable[[], list[Tensor]]
OFF = "Or switch it off: --callbacks.cuda_graph null"
MOST_KINDS = 64  # of steps, before one has come often enough
MOST_GRAPHS = 8  # each keeps the memory of a step


class Kind(NamedTuple):
    """What must not change for a graph to be replayed; names are those of messages."""

    batch: Any  # shapes
    window: tuple[int, bool, bool]  # accumulated batches: their number, is it the first, the last
    row: bool  # of metrics
    layers: Any  # in training or not, parameters frozen or not


class Graph:
    """A captured step.

    Args:
        batch: The batch that it reads, which is written before each replay.
        state: What it changes besides.
    """

    def __init__(self, batch: Any, state: State) -> None:
        self.batch, self.state = batch, state
        self.leaves = flattened(batch)[0]
        self.replay: Callable[[], None] = lambda: None
        self.output: dict[str, Any] = {}
        self.gradients: list[tuple[nn.Parameter, Tensor]] = []


class GraphedStep:
    """Stand between Lightning's loop and its steps, of which it replays those it has captured.

    Args:
        trainer: Its loop is changed, until ``end``.
        module: The module.
        warm_up_steps: Steps of each kind that run as they are first.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, warm_up_steps: int) -> None:
        self.trainer, self.module, self.warm_up_steps = trainer, module, warm_up_steps
        self.loop: Any = trainer.fit_loop.epoch_loop.automatic_optimization
        self.eager, self.optimizer = self.loop.run, trainer.optimizers[0]
        vars(self.loop)["run"] = self.run
        self.parts, self.parameters = [*module.modules()], [*module.parameters()]
        self.graphs: dict[Kind, Graph] = {}
        self.seen: Counter[Kind] = Counter()
        self.last: Kind | None = None
        self.is_first = True

    def end(self) -> None:
        """Give Lightning its steps back, and free the graphs and what they compute."""
        vars(self.loop).pop("run", None)
        for graph in self.graphs.values():
            for parameter, gradient in graph.gradients:
                if parameter.grad is gradient:
                    parameter.grad = None
        self.graphs.clear()

    def run(self, optimizer: Any, batch_idx: int, kwargs: Any) -> Any:
        """Do what ``run`` of Lightning's automatic optimization does."""
        leaves, shapes = flattened(kwargs["batch"])
        kind = self._kind(shapes, batch_idx)
        last, self.last = self.last, kind
        is_usual = last is not None and last.batch == shapes and not self.is_first
        if not is_usual or self._is_unequal(batch_idx) or self.seen[kind] < self.warm_up_steps:
            return self._run_eagerly(kind, last, is_usual, optimizer, batch_idx, kwargs)
        graph = self.graphs.get(kind)
        if graph is None:
            return self._capture(kind, optimizer, batch_idx, kwargs)
        for static, leaf in zip(graph.leaves, leaves, strict=True):
            static.copy_(leaf, non_blocking=True)
        return self._replay(graph, kind, 1)

    def _kind(self, shapes: Any, batch_idx: int) -> Kind:
        window = self.trainer.accumulate_grad_batches
        place = batch_idx % window
        modes = [part.training for part in self.parts]
        frozen = [(p.requires_grad, p.data_ptr()) for p in self.parameters]
        return Kind(
            shapes,
            (window, place == 0, place == window - 1 or self.trainer.is_last_batch),
            is_row_due(self.trainer, self.module),
            (*modes, *frozen),
        )

    def _is_unequal(self, batch_idx: int) -> bool:
        """Tell whether samples of this step may have weights of their own, the last of an epoch."""
        window = self.trainer.accumulate_grad_batches
        is_last = batch_idx - batch_idx % window + window >= self.trainer.num_training_batches
        return window > 1 and is_last

    def _run_eagerly(self, kind: Kind, last: Kind | None, is_usual: bool, *args: Any) -> Any:
        times = self.seen[kind]
        self.seen[kind] += 1
        self.is_first = False
        if len(self.seen) > MOST_KINDS and not self.graphs and last is not None:
            what = [n for n, a, b in zip(Kind._fields, kind, last, strict=True) if a != b]
            raise ValueError(
                f"finds no step to capture: of {MOST_KINDS} kinds none came often. What changes "
                f"is the {' and the '.join(what)}.\n{OFF}"
            )
        if is_usual and times and times == self.warm_up_steps - 1:
            quiet = no_waits(self.trainer.strategy.root_device)
            with explained(self.module), logs_checked(self.module), quiet:
                return self.eager(*args)
        return self.eager(*args)

    def _capture(self, kind: Kind, optimizer: Any, batch_idx: int, kwargs: Any) -> dict[str, Any]:
        if len(self.graphs) >= MOST_GRAPHS:
            self.graphs.clear()
        batch = apply_to_collection(kwargs["batch"], Tensor, Tensor.clone)
        results = self.trainer.fit_loop.epoch_loop._results.values()
        graph = Graph(batch, State(self.module, results))

        def run() -> list[Tensor]:
            output = self.eager(optimizer, batch_idx, kwargs | {"batch": batch})
            if not output:
                raise ValueError("it returned no loss")
            graph.state.settle()
            graph.gradients = [(p, p.grad) for p in self.parameters if p.grad is not None]
            graph.output = apply_to_collection(output, Tensor, Tensor.detach)
            logged = [value for *_, value in graph.state.updates]
            gradients = [gradient for _, gradient in graph.gradients]
            return flattened([graph.output, gradients, logged])[0]

        before, drawn = plain(self._owners()), random_states()
        with explained(self.module), logs_checked(self.module), steps_left_out(self.optimizer):
            graph.replay = record(run)
            if random_states() != drawn:
                raise ValueError("it draws random numbers on the CPU, which a graph would repeat")
        for attribute in sorted(n for n, _ in before.items() ^ plain(self._owners()).items()):
            raise ValueError(
                f"the step changes `{attribute}`, which a graph would not. Keep it in a "
                f"tensor: by register_buffer, or as a state of a metric that is no list.\n{OFF}"
            )
        self.graphs[kind] = graph
        return self._replay(graph, kind, 0)  # Python has counted this step

    def _owners(self) -> dict[str, Any]:
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return dict(self.module.named_modules()) | {type(c).__name__: c for c in callbacks}

    def _replay(self, graph: Graph, kind: Kind, times: int) -> dict[str, Any]:
        graph.state.enter()
        for parameter, place in [] if kind.window[1] else graph.gradients:
            if parameter.grad is not place:  # but those of a batch that was not replayed
                place.copy_(torch.zeros_like(place) if parameter.grad is None else parameter.grad)
        graph.replay()
        graph.state.leave(times)
        if times:
            self._count(kind)
        for parameter, gradient in graph.gradients:
            parameter.grad = gradient
        if kind.window[2]:
            self.optimizer.step()
        # The next step overwrites it.
        output: dict[str, Any] = apply_to_collection(graph.output, Tensor, Tensor.clone)
        return output

    def _count(self, kind: Kind) -> None:
        """Count for Lightning what a replay does."""
        _, is_first, is_last = kind.window
        progress = self.loop.optim_progress.optimizer
        if is_first:
            progress.zero_grad.increment_ready()
            progress.zero_grad.increment_started()
            progress.zero_grad.increment_completed()
        if is_last:
            progress.step.increment_ready()
            progress.step.increment_completed()


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
def steps_left_out(optimizer: Optimizer) -> Iterator[None]:
    """Have the optimizer compute gradients, and leave the weights as they are."""
    step = vars(optimizer).get("step")

    def only_closure(closure: Callable[[], Any]) -> Any:
        with torch.enable_grad():
            return closure()

    vars(optimizer)["step"] = only_closure
    try:
        yield
    finally:
        del vars(optimizer)["step"]
        if step is not None:
            vars(optimizer)["step"] = step  # a schedule's, which counts


@contextmanager
def explained(module: LightningModule) -> Iterator[None]:
    """Say of an error that it keeps the step from being captured."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        why = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        name = type(module).__name__
        raise ValueError(f"the step of {name} cannot be captured: {why}.\n{OFF}") from error


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
def logs_checked(module: LightningModule) -> Iterator[None]:
    """Raise ``ValueError`` for what is logged that is not on the device."""

    def log(name: str, value: Any, *args: Any, **options: Any) -> None:
        is_number = not isinstance(value, (Tensor, Metric))
        if is_number or (isinstance(value, Tensor) and value.device.type != module.device.type):
            what = "a number" if is_number else f"a tensor on {value.device}"
            raise ValueError(f"it logs `{name}` as {what}, which a graph would repeat")
        type(module).log(module, name, value, *args, **options)

    vars(module)["log"] = log
    try:
        yield
    finally:
        del vars(module)["log"]


def flattened(batch: Any) -> tuple[list[Tensor], Any]:
    """Return the tensors in a batch, and what must not change for a graph to be replayed on it."""
    tensors: list[Tensor] = []

    def kind_of(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
            return value.shape, value.dtype, value.device, value.stride()
        if isinstance(value, (list, tuple)):
            return tuple(map(kind_of, value))
        if isinstance(value, Mapping):
            return tuple((key, kind_of(item)) for key, item in value.items())
        if is_dataclass(value):
            return kind_of(vars(value))
        if value is not None and not isinstance(value, (bool, int, float, str)):
            what = f"a batch holds a {type(value).__name__}, whose tensors are not known"
            raise ValueError(f"no step can be captured: {what}.\n{OFF}")
        return value

    return tensors, kind_of(batch)


def random_states() -> Any:
    """Return the states of the generators of the CPU."""
    return torch.get_rng_state().tolist(), repr(numpy.random.get_state()), random.getstate()
