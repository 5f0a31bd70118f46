"""A pretended GPU: what would fail on a GPU fails on a machine without one.

Its tensors are ordinary ones of the CPU whose storages carry a mark, so all numbers come out right.
``device="cuda"`` and ``.to("cuda")`` set the mark, ``.device`` and ``.is_cuda`` tell it, and every
operation hands it on. Refused as on a GPU: operations that mix devices, ``.numpy()``, tensors of
the CPU in collectives of NCCL. Each wait of the host for the device is kept with its file and line.

    python -m tests.lightkeel.pretended_gpu 2 MODULE --config cifar10     a command with two of them

Not pretended: ``torch.compile``, CUDA graphs, ``torch.export``, FSDP, CUDA's own generator, limits
of memory, and what only a kernel of CUDA refuses. Collectives within DDP are not looked at.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch._dynamo  # it lists the functions of torch.cuda when it is imported: those of CUDA
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten: Any = torch.ops.aten
# Operations that take tensors of two devices: copies, and what asks for shapes alone.
COPIES = {aten.copy_, aten._foreach_copy_, aten._to_copy, aten.set_, aten.is_same_size}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# Elsewhere a tensor without dimensions may be on the CPU: a number, to CUDA.
STRICT = {aten.cat, aten.stack, aten._foreach_mul, aten._foreach_mul_}
# Operations whose result, or its shape, the host needs.
READS = {
    *(aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select),
    *(aten._unique2, aten.bincount, aten.repeat_interleave),
}
ROOT = __file__.removesuffix("tests/lightkeel/pretended_gpu.py")
COLLECTIVES = ("all_reduce", "reduce", "broadcast", "all_gather", "gather", "scatter")


class Place(NamedTuple):
    """Where something happened: what, and the innermost line of this project."""

    what: str
    file: str
    line: int


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hand marks on below autograd, so in backward passes too, and refuse mixed devices."""

    def __init__(self, gpu: "PretendedGPU") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            given = tensors_in(args, kwargs)
            on_gpu = self._device_of(func, args, given)
            result = func(*args, **(kwargs or {}))
            before = {storage(tensor)._cdata for tensor in given}
            made = [t for t in tensors_in(result) if storage(t)._cdata not in before]
            mark(made, on_gpu)
            writes = func._schema.is_mutable or (made and "empty" not in str(func))
            if on_gpu and writes:
                self.gpu.operations.append(func)
            for tensor in tensors_in(result):
                if is_marked(tensor) and tensor.dtype == torch.float64:
                    self.gpu.keep(self.gpu.doubles, str(func))
            return result

    def _device_of(self, func: Any, args: Sequence[Any], given: list[Tensor]) -> bool:
        """Tell whether an operation runs on the GPU, or refuse it."""
        if not given:
            return self.gpu.makes_its_own
        kind, on_gpu = func.overloadpacket, [is_marked(tensor) for tensor in given]
        if kind in READS and any(on_gpu):
            self.gpu.waited(str(func))
        if kind is aten.copy_ and on_gpu[0] != on_gpu[1]:
            self.gpu.waited(str(func))
        if kind in COPIES or func is aten.mul.out:  # the last is DDP's, into its buckets
            return on_gpu[0]
        compared = [on for on, t in zip(on_gpu, given, strict=True) if t.ndim or kind in STRICT]
        if kind in INDEXING:
            indices = tensors_in(args[1])
            mask = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
            if on_gpu[0] and (mask or not all(map(is_marked, indices))):
                self.gpu.waited(f"{func} by a mask or by indices of the CPU")
            compared = [on_gpu[0], *filter(None, compared)]  # indices of the CPU are copied
        if len(set(compared)) > 1:
            found = [f"{tuple(t.shape)} {'cuda' if is_marked(t) else 'cpu'}" for t in given]
            raise RuntimeError(f"{func}: expected all tensors on one device, found {found}")
        return any(compared or on_gpu)


class PretendedGPU(TorchFunctionMode):
    """Answer where tensors are, and make them where Python asks for them to be.

    Attributes:
        operations: What ran there, in its order: not views, and not what only takes memory.
        waits: What made the host wait for the device.
        doubles: What made float64 numbers there, which GPUs of Apple's lack.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Any] = []
        self.waits: list[Place] = []
        self.doubles: list[Place] = []
        self.makes_its_own = False  # whether what is made from nothing, within a call, is marked
        self.uses_nccl = False

    def waited(self, what: str) -> None:
        """Note that the host had to wait."""
        self.keep(self.waits, what)

    def keep(self, places: list[Place], what: str) -> None:
        """Note where something happened."""
        frame = sys._getframe()
        while frame.f_back is not None and not is_ours(frame.f_code.co_filename):
            frame = frame.f_back
        file = frame.f_code.co_filename.removeprefix(ROOT)
        places.append(Place(what, file, frame.f_lineno))

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "__get__":
            return self._read(func, args[0])
        if isinstance(args[0] if args else None, Tensor):
            if name in ("to", "cpu", "cuda"):
                return self._move(name, *args, **kwargs)
            if name == "get_device" and is_marked(args[0]):
                return device().index
            if name == "is_pinned":
                return False
            if name == "pin_memory":
                return args[0]
            if name in ("numpy", "__array__") and is_marked(args[0]):
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            if name == "tolist" and is_marked(args[0]):
                self.waited(name)
        return self._call(name, func, args, kwargs)

    def _call(self, name: str, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        before = self.makes_its_own
        asked = kwargs.get("device")
        if asked is None:
            self.makes_its_own = any(map(is_marked, tensors_in(args, kwargs)))
        else:
            self.makes_its_own = is_cuda(asked)
            kwargs["device"] = "cpu"
        try:
            result = func(*args, **kwargs)
            if name == "as_tensor" and asked is not None:  # which may be given one
                return self._moved(result, self.makes_its_own)
            # Not every way to make a tensor is an operation.
            made = asked is not None or name in ("__deepcopy__", "__reduce_ex__")
            return mark(result, self.makes_its_own) if made else result
        finally:
            self.makes_its_own = before

    def _read(self, func: Any, tensor: Any) -> Any:
        """Read a property."""
        name = resolve_name(func) or ""
        if isinstance(tensor, Tensor) and is_marked(tensor):
            if name.endswith("Tensor.device.__get__"):
                return device()
            if name.endswith((".is_cuda.__get__", ".is_cpu.__get__")):
                return ".is_cuda." in name
        return func(tensor)

    def _move(self, name: str, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if name != "to":
            return self._moved(tensor, name == "cuda")
        if args and isinstance(args[0], Tensor):
            args = (device() if is_marked(args[0]) else "cpu", args[0].dtype, *args[1:])
        copy = kwargs.pop("copy", False)
        to, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        tensor_ = tensor if dtype is None else torch.Tensor.to(tensor, dtype)
        if layout is not None and tensor.ndim == 4:
            tensor_ = torch.Tensor.to(tensor_, memory_format=layout)
        return self._moved(tensor_, is_marked(tensor) if to is None else is_cuda(to), copy)

    def _moved(self, tensor: Tensor, on_gpu: bool, copy: bool = False) -> Tensor:
        if is_marked(tensor) and not on_gpu:
            self.waited("a copy to the CPU")
        moves = is_marked(tensor) != on_gpu
        moved: Tensor = Moved.apply(tensor, on_gpu) if copy or moves else tensor
        return moved


class Moved(torch.autograd.Function):
    """A copy on the other device, whose gradient comes back to this one."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, on_gpu: bool) -> Any:
        ctx.was_on_gpu = is_marked(tensor)
        return mark(tensor.clone(), on_gpu)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return mark(gradient.clone(), ctx.was_on_gpu), None


def tensors_in(*values: Any) -> list[Tensor]:
    return [part for part in tree_leaves(values) if isinstance(part, Tensor)]


def storage(tensor: Tensor) -> Any:
    return torch._C.TensorBase.untyped_storage(tensor)


def is_marked(tensor: Tensor) -> bool:
    """Tell whether a tensor lies on the pretended GPU."""
    try:
        return getattr(storage(tensor), "is_pretended", False)
    except (RuntimeError, NotImplementedError):
        return False  # sparse ones have no storage


def mark(values: Any, on_gpu: bool) -> Any:
    for tensor in tensors_in(values):
        storage(tensor).is_pretended = on_gpu
    return values


def is_ours(file: str) -> bool:
    """Tell whether a file is of this project: neither installed, nor this one."""
    return file.startswith(ROOT) and "site-packages" not in file and file != __file__


def device() -> torch.device:
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def is_cuda(where: Any) -> bool:
    return isinstance(where, int) or torch.device(where).type == "cuda"


@contextmanager
def pretended_gpu(count: int = 1) -> Iterator[PretendedGPU]:
    """Pretend within this block that there are ``count`` GPUs, of which this process uses one."""
    gpu = PretendedGPU()
    with ExitStack() as stack:
        for (owner, name), function in stand_ins(gpu, count).items():
            stack.enter_context(patch.object(owner, name, function, create=True))
        stack.enter_context(Operations(gpu))
        stack.enter_context(gpu)
        yield gpu


def stand_ins(gpu: PretendedGPU, count: int) -> dict[tuple[Any, str], Any]:
    """List what PyTorch does with CUDA in other ways than by operations, and what is done here."""
    random = [torch.zeros(16, dtype=torch.uint8)]
    stream = SimpleNamespace(is_capturing=lambda: False)
    stream.wait_stream = stream.synchronize = lambda *_: None
    nothing = lambda *_, **__: None  # noqa: E731
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_current_stream_capturing": lambda: False,
        "device_count": lambda: count,
        "current_device": lambda: device().index,
        "get_device_name": lambda *_: "Pretended",
        "get_device_capability": lambda *_: (9, 0),
        "mem_get_info": lambda *_: (2**36, 2**36),
        "max_memory_allocated": lambda *_: 2**20,
        "synchronize": lambda *_: gpu.waited("synchronize"),
        "get_rng_state": lambda *_: random[0].clone(),
        "get_rng_state_all": lambda: [random[0].clone()],
        "set_rng_state": lambda new, *_: random.__setitem__(0, new.clone()),
        "set_rng_state_all": lambda new: random.__setitem__(0, new[0].clone()),
        "Stream": nothing,
        "current_stream": lambda *_: stream,
        "stream": nullcontext,
    }
    ignored = ("set_device", "empty_cache", "manual_seed_all", "reset_peak_memory_stats")
    answers |= dict.fromkeys(ignored, nothing)
    found: dict[tuple[Any, str], Any] = {
        (torch.cuda, name): answer for name, answer in answers.items()
    }
    found[torch._C, "_cuda_clearCublasWorkspaces"] = nothing
    if hasattr(torch, "accelerator"):  # of torch 2.6 and later
        found[torch.accelerator, "current_stream"] = lambda *_: stream
        found[torch.accelerator, "current_device_index"] = lambda: device().index
        found[torch.accelerator, "set_device_index"] = nothing
    pinning = importlib.import_module("torch.utils.data._utils.pin_memory")
    found[pinning, "pin_memory"] = lambda data, *_: data
    packages = [(0, location_of, put_back), *torch.serialization._package_registry]
    found[torch.serialization, "_package_registry"] = packages
    found[torch.autocast, "__init__"] = cast_on_cpu(torch.autocast.__init__)
    for owner, name, wrap in (
        (torch.autograd, "_engine_run_backward", partial(asking, gpu)),
        (torch._C, "_group_tensors_by_device_and_dtype", grouping),
    ):
        found[owner, name] = wrap(getattr(owner, name))
    found |= process_groups(gpu)
    return found


def location_of(content: Any) -> str | None:
    """Have files say that a storage was on the GPU."""
    return str(device()) if getattr(content, "is_pretended", False) else None


def put_back(content: Any, location: str) -> Any:
    """Read a storage back to where it was."""
    if not location.startswith("cuda"):
        return None
    content.is_pretended = True
    return content


def cast_on_cpu(init: Any) -> Any:
    """Let a region of mixed precision on the GPU be one on the CPU, where its tensors are."""

    def __init__(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        init(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    return __init__


def asking(gpu: PretendedGPU, run_backward: Any) -> Any:
    """Let hooks of gradients ask for devices: within a call PyTorch has taken the mode off."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with gpu:
            return run_backward(*args, **kwargs)

    return run


def grouping(group: Any) -> Any:
    """Let optimizers, which group parameters by device in C++, see the pretended one."""

    def grouped(lists: Any, with_indices: bool = False) -> Any:
        return {
            (device() if is_marked(values[0][0][0]) else where, dtype): values
            for (where, dtype), values in group(lists, with_indices).items()
        }

    return grouped


def process_groups(gpu: PretendedGPU) -> dict[tuple[Any, str], Any]:
    """Let gloo stand in for NCCL, and refuse what that would."""
    distributed: Any = torch.distributed
    join, objects_on = distributed.init_process_group, "_get_object_coll_device"
    own_objects_on = getattr(distributed.distributed_c10d, objects_on)

    def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> None:
        gpu.uses_nccl = "nccl" in str(backend)
        kwargs.pop("device_id", None)
        join("gloo" if gpu.uses_nccl else backend, *args, **kwargs)

    def checked(collective: Any) -> Any:
        @wraps(collective)
        def run(*args: Any, **kwargs: Any) -> Any:
            if gpu.uses_nccl and not all(map(is_marked, tensors_in(args, kwargs))):
                raise RuntimeError(f"{collective.__name__}: NCCL takes no tensors of the CPU")
            return collective(*args, **kwargs)

        return run

    return {
        (distributed, "init_process_group"): init_process_group,
        (distributed.distributed_c10d, objects_on): (
            lambda group=None: "cuda" if gpu.uses_nccl else own_objects_on(group)
        ),
        **{(distributed, name): checked(getattr(distributed, name)) for name in COLLECTIVES},
    }


if __name__ == "__main__":
    # Lightning starts the process of another device with these same arguments.
    command = importlib.import_module(sys.argv[2])
    with pretended_gpu(int(sys.argv[1])):
        sys.exit(command.main(sys.argv[3:]))
