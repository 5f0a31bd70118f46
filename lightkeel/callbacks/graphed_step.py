"""A training step that is captured as a CUDA graph, and replayed."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities import apply_to_collection
from torch import Tensor, nn

from .graph_capture import (
    OFF,
    UNKNOWN,
    explained,
    first_difference,
    flattened,
    logs_checked,
    numbers_unknown,
    only_closure,
    random_states,
    record,
    refuse_output,
    replaced_step,
    waits_checked,
)
from .graph_state import State, detached, plain
from .readings import is_row_due

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
        leaves: Tensors of the batch that it reads, which are written before each replay.
        state: What it changes besides.
    """

    def __init__(self, leaves: list[Tensor], state: State) -> None:
        self.leaves, self.state = leaves, state
        self.replay: Callable[[], None] = lambda: None
        self.output: dict[str, Any] = {}
        self.gradients: list[tuple[nn.Parameter, Tensor | None]] = []


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
        self.parts: list[nn.Module] = []
        self.parameters: list[nn.Parameter] = []
        self.held: dict[str, Any] = {}  # in Python, when an epoch began
        self.graphs: dict[Kind, Graph] = {}
        self.seen: Counter[Kind] = Counter()
        self.last: Kind | None = None
        self.is_first = True

    def end(self) -> None:
        """Give Lightning its steps back, and free the graphs and what they compute."""
        vars(self.loop).pop("run", None)
        for graph in self.graphs.values():
            for parameter, gradient in graph.gradients:
                if gradient is not None and parameter.grad is gradient:
                    parameter.grad = None
        self.graphs.clear()

    def _look(self) -> None:
        """Forget all graphs where what steps compute with in Python has changed, or the layers."""
        held = plain(dict(self.module.named_modules()))
        if held != self.held:
            self.graphs.clear()
            groups = self.optimizer.param_groups
            others = [parameter for group in groups for parameter in group["params"]]
            self.parts, self.held = [*self.module.modules()], held
            self.parameters = [*dict.fromkeys([*self.module.parameters(), *others])]

    def run(self, optimizer: Any, batch_idx: int, kwargs: Any) -> Any:
        """Do what ``run`` of Lightning's automatic optimization does."""
        if self.is_first:
            self._look()
        leaves, shapes = flattened(kwargs["batch"], self.trainer.strategy.root_device)
        kind = self._kind(shapes, batch_idx)
        last, self.last = self.last, kind
        is_usual = last is not None and last.batch == shapes and not self.is_first
        if not is_usual or self._is_unequal(batch_idx) or self.seen[kind] < self.warm_up_steps:
            return self._run_eagerly(kind, last, is_usual, optimizer, batch_idx, kwargs)
        graph = self.graphs.get(kind)
        if graph is None and len(self.graphs) < MOST_GRAPHS:
            return self._capture(kind, optimizer, batch_idx, kwargs)
        if graph is None:
            return self._run_eagerly(kind, last, is_usual, optimizer, batch_idx, kwargs)
        for static, leaf in zip(graph.leaves, leaves, strict=True):
            static.copy_(leaf, non_blocking=True)
        return self._replay(graph, kind, 1)

    def _kind(self, shapes: Any, batch_idx: int) -> Kind:
        window = self.trainer.accumulate_grad_batches
        place = batch_idx % window
        modes = [part.training for part in self.parts]
        # A batch adds to gradients that are there; where there is none, it makes one.
        frozen = [
            (p.requires_grad, p.data_ptr(), bool(place) and p.grad is None) for p in self.parameters
        ]
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
        if len(self.seen) > MOST_KINDS and last is not None:
            if not self.graphs:
                what = [n for n, a, b in zip(Kind._fields, kind, last, strict=True) if a != b]
                raise ValueError(
                    f"finds no step to capture: of {MOST_KINDS} kinds none came often. What "
                    f"changes is the {' and the '.join(what)}.\n{OFF}"
                )
            self.seen.clear()
        progress = self.loop.optim_progress.optimizer.zero_grad.total
        zeroed = progress.completed
        if is_usual and times and times == self.warm_up_steps - 1:
            with logs_checked(self.module), waits_checked(self.module, self.optimizer):
                output = self.eager(*args)
        else:
            output = self.eager(*args)
        if progress.completed > zeroed + 1:
            name = type(self.optimizer).__name__
            raise ValueError(f"{name} computes losses several times a step, as they come.\n{OFF}")
        return output

    def _capture(self, kind: Kind, optimizer: Any, batch_idx: int, kwargs: Any) -> dict[str, Any]:
        batch = apply_to_collection(kwargs["batch"], Tensor, Tensor.clone)
        results = self.trainer.fit_loop.epoch_loop._results.values()
        leaves, _ = flattened(batch, self.trainer.strategy.root_device)
        graph = Graph(leaves, State(self.module, results))
        given = kwargs | {"batch": batch}
        given |= {"batch_idx": UNKNOWN} if "batch_idx" in kwargs else {}

        def run() -> None:
            output = self.eager(optimizer, batch_idx, given)
            if not output:
                raise ValueError("it returned no loss")
            graph.state.settle()
            graph.gradients = [(p, p.grad) for p in self.parameters]
            graph.output = detached(output)
            apply_to_collection(output, (int, float), refuse_output)

        before, drawn = plain(self._owners()), random_states()
        progress = copy.deepcopy(self.loop.optim_progress.state_dict())
        try:
            with explained(self.module), numbers_unknown(), logs_checked(self.module):
                with replaced_step(self.optimizer, only_closure):
                    graph.replay = record(run)
                if random_states() != drawn:
                    raise ValueError(
                        "it draws random numbers on the CPU, which a graph would repeat"
                    )
            if changed := first_difference(before, plain(self._owners())):
                raise ValueError(
                    f"the step changes `{changed}`, which a graph would not. Keep it in a tensor: "
                    f"by register_buffer, or as a state of a metric that is no list.\n{OFF}"
                )
        except BaseException:
            graph.state.give_up()
            self.loop.optim_progress.load_state_dict(progress)
            raise
        self.graphs[kind] = graph
        return self._replay(graph, kind, 0)  # Python has counted this step

    def _owners(self) -> dict[str, Any]:
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        named = {f"{type(c).__name__}[{i}]": c for i, c in enumerate(callbacks)}
        return dict(self.module.named_modules()) | named

    def _replay(self, graph: Graph, kind: Kind, times: int) -> dict[str, Any]:
        graph.state.enter()
        for parameter, place in [] if kind.window[1] else graph.gradients:
            gradient = parameter.grad
            if place is not None and gradient is not None and gradient is not place:
                place.copy_(gradient)  # that of a batch that was not replayed
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
