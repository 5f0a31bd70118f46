"""The capture of a step as a CUDA graph, and what cannot be captured."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any
from unittest.mock import patch

import numpy
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

Run = Callable[[], None]
OFF = "Or switch it off: --callbacks.cuda_graph null"


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


def refuse(*args: Any) -> Any:
    """Raise ``ValueError`` for a number that Lightning counts up."""
    raise ValueError("it reads the number of its batch, step or epoch, which a graph would repeat")


def refuse_output(value: Any) -> Any:
    """Raise ``ValueError`` for a number that is returned."""
    raise ValueError(f"it returns {value!r}, a number, which a graph would repeat")


OPERATORS = (
    *("eq", "bool", "lt", "le", "gt", "ge", "mod", "add", "radd", "sub", "rsub", "mul", "rmul"),
    *("truediv", "rtruediv", "floordiv", "int", "index", "float", "str", "format", "pow", "neg"),
)
# Stands for the number of a batch.
UNKNOWN: Any = type("BatchIndex", (), {f"__{name}__": refuse for name in OPERATORS})()


@contextmanager
def numbers_unknown() -> Iterator[None]:
    """Raise ``ValueError`` where a module reads at which step or in which epoch it is."""
    unknown: dict[str, Any] = {"current_epoch": property(refuse), "global_step": property(refuse)}
    with patch.multiple(LightningModule, **unknown):
        yield


@contextmanager
def replaced_step(optimizer: Optimizer, replacement: Callable[..., Any]) -> Iterator[None]:
    """Have an optimizer step otherwise."""
    step = vars(optimizer).get("step")
    vars(optimizer)["step"] = replacement
    try:
        yield
    finally:
        del vars(optimizer)["step"]
        if step is not None:
            vars(optimizer)["step"] = step  # a schedule's, which counts


def only_closure(closure: Callable[[], Any]) -> Any:
    """Compute gradients, and leave the weights as they are."""
    with torch.enable_grad():
        return closure()


@contextmanager
def waits_checked(module: LightningModule, optimizer: Optimizer) -> Iterator[None]:
    """Raise ``ValueError`` where a step waits for the device, but for the optimizer's own part."""
    step = optimizer.step

    def checked(closure: Callable[[], Any]) -> Any:
        def quiet() -> Any:
            with explained(module, "synchroniz"), no_waits(module.device):
                return closure()

        return step(quiet)

    with replaced_step(optimizer, checked):
        yield


@contextmanager
def explained(module: LightningModule, about: str = "") -> Iterator[None]:
    """Say of an error, ``about`` something, that it keeps the step from being captured."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        if about not in str(error):
            raise
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


def first_difference(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Name what differs, the first by its name."""
    names = sorted(before.keys() | after.keys())
    return next((name for name in names if before.get(name) != after.get(name)), None)


def flattened(batch: Any, device: torch.device) -> tuple[list[Tensor], Any]:
    """Return the tensors in a batch, and what must not change for a graph to be replayed on it."""
    tensors: list[Tensor] = []

    def kind_of(value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.device.type != device.type or value.layout is not torch.strided:
                raise ValueError(
                    f"no step can be captured: a batch holds a tensor on {value.device}, "
                    f"{value.layout}. It can be of those on {device}, torch.strided.\n{OFF}"
                )
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
