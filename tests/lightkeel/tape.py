"""A CUDA graph on the CPU: it keeps operations and the places they use, and does them again."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2"}


def tensors_in(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def bare(value: Any) -> Any:
    """Return a tensor at the same place, which no backward pass goes through."""
    return value.detach() if isinstance(value, Tensor) else value


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Note operations, and what the tensors held that they have written to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done: list[tuple[Any, Any, Any, Any]] = []
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in WAITS:
            raise RuntimeError(f"called a synchronizing CUDA operation: {name}")
        for tensor in tensors_in([*written(func, args, kwargs)]):
            self.before.append((tensor.detach(), tensor.detach().clone()))
        with torch.no_grad():
            given = tree_map(bare, (args, kwargs))
        result = func(*args, **kwargs)
        with torch.no_grad():
            self.done.append((func, *given, tree_map(bare, result)))
        return result


def written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Any]:
    """List the arguments that an operation writes to."""
    if func._schema.name == "aten::native_batch_norm":  # whose schema does not say so
        yield args[3:5]
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield args[place] if place < len(args) else kwargs.get(argument.name)


class Tape:
    """Stands in for ``record``: as by a graph, a capture computes nothing, and Python runs once."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0
        self.static: list[Any] = []

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        operations, drawn = Operations(), torch.get_rng_state()
        try:
            with operations:
                run()
        finally:
            torch.set_rng_state(drawn)
            with torch.no_grad():
                for tensor, value in reversed(operations.before):
                    tensor.copy_(value)
        self.static = [weakref.ref(t) for *_, made in operations.done for t in tensors_in(made)]

        @torch.no_grad()
        def replay() -> None:
            self.replayed += 1
            for func, args, kwargs, made in operations.done:
                if func.is_view:
                    continue
                new = func(*args, **kwargs)
                if not func._schema.is_mutable:
                    for place, value in zip(tensors_in(made), tensors_in(new), strict=True):
                        if place.data_ptr() != value.data_ptr():
                            place.copy_(value)

        return replay
