"""What a GPU refuses, the pretended one refuses too."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from tests.lightkeel.pretended_gpu import PretendedGPU, pretended_gpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: none to pretend")


@pytest.fixture
def gpu() -> Iterator[PretendedGPU]:
    with pretended_gpu() as pretended:
        yield pretended


def test_tensors_are_where_they_are_made_and_moved(gpu: PretendedGPU) -> None:
    made = torch.ones(2, device="cuda")
    assert made.device == torch.device("cuda", 0)
    assert made.is_cuda
    assert (made * 2).sum().is_cuda
    assert torch.zeros_like(made).is_cuda
    assert not made.cpu().is_cuda
    layer = nn.Linear(2, 1).to("cuda")
    loss = layer(torch.ones(1, 2).cuda()).sum()
    loss.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.is_cuda
    assert made.cpu().tolist() == [1, 1]


@pytest.mark.parametrize(
    "operation",
    [
        lambda on, off: on + off,
        lambda on, off: off.addmm(on, off),
        lambda on, off: torch.cat([on, off]),
        lambda on, off: nn.Linear(2, 2).to("cuda")(off),
        lambda on, off: nn.Linear(2, 2)(on),
        lambda on, off: torch._foreach_add_([on], [off]),
        lambda on, off: off[torch.zeros(1, dtype=torch.int64, device="cuda")],
    ],
)
def test_mixed_devices_are_refused(operation: Callable[..., Any], gpu: PretendedGPU) -> None:
    on, off = torch.ones(2, 2, device="cuda"), torch.ones(2, 2)
    with pytest.raises(RuntimeError, match="expected all tensors on one device"):
        operation(on, off)


def test_numbers_mix(gpu: PretendedGPU) -> None:
    assert (torch.ones(2, device="cuda") + torch.tensor(1.0)).is_cuda


def test_numpy_is_refused(gpu: PretendedGPU) -> None:
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        torch.ones(2, device="cuda").numpy()
    assert torch.ones(2, device="cuda").cpu().numpy().sum() == 2


def test_collectives_of_nccl_take_no_tensors_of_the_cpu(gpu: PretendedGPU, tmp_path: Path) -> None:
    distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        distributed.all_reduce(torch.ones(1, device="cuda"))
        with pytest.raises(RuntimeError, match="all_reduce: NCCL takes no tensors of the CPU"):
            distributed.all_reduce(torch.ones(1))
        values: list[Any] = [None]
        distributed.all_gather_object(values, {"any": "object"})
        assert values == [{"any": "object"}]
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("wait", "what"),
    [
        (lambda on: on.sum().item(), "_local_scalar_dense"),
        (lambda on: float(on.sum()), "_local_scalar_dense"),
        (lambda on: bool(on.sum() > 0), "_local_scalar_dense"),
        (lambda on: on.tolist(), "tolist"),
        (lambda on: on.cpu(), "copy"),
        (lambda on: torch.zeros(2).copy_(on), "copy_"),
        (lambda on: on[on > 0], "index"),
        (lambda on: on.nonzero(), "nonzero"),
        (lambda on: torch.cuda.synchronize(), "synchronize"),
    ],
)
def test_waits_are_listed(wait: Callable[..., Any], what: str, gpu: PretendedGPU) -> None:
    on = torch.ones(2, device="cuda")
    assert gpu.waits == []
    wait(on)
    line = wait.__code__.co_firstlineno
    assert [(place.file, place.line) for place in gpu.waits] == [
        ("tests/lightkeel/test_pretended_gpu.py", line)
    ]
    assert what in gpu.waits[0].what


def test_operations_are_listed(gpu: PretendedGPU) -> None:
    on, off = torch.ones(2, 3, device="cuda"), torch.ones(2, 3)
    before = len(gpu.operations)
    on.add_(1).view(3, 2)[1:].t().detach()
    torch.empty_like(on)
    torch._foreach_mul_([on, on + 0.5], 2)
    (off + 1).mul_(2)
    names = [str(operation) for operation in gpu.operations[before:]]
    assert names == ["aten.add_.Tensor", "aten.add.Tensor", "aten._foreach_mul_.Scalar"]


def test_numbers_of_64_bits_are_listed(gpu: PretendedGPU) -> None:
    torch.ones(2, device="cuda").sum()
    assert gpu.doubles == []
    torch.ones(2, device="cuda").double()
    assert {place.file for place in gpu.doubles} == {"tests/lightkeel/test_pretended_gpu.py"}


def test_files_say_where_tensors_were(tmp_path: Path) -> None:
    file = tmp_path / "tensor.pt"
    with pretended_gpu():
        torch.save(torch.ones(2, device="cuda"), file)
        assert torch.load(file).is_cuda
        assert not torch.load(file, map_location="cpu").is_cuda
    with pytest.raises(RuntimeError, match="on a CUDA device"):
        torch.load(file)


def test_nothing_stays() -> None:
    with pretended_gpu():
        assert torch.cuda.device_count() == 1
    assert not torch.cuda.is_available()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(2, device="cuda")
