"""What a graph replays is the step itself. Here, without a GPU, a replay computes it anew."""

import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import CatMetric, MeanMetric

from lightkeel.callbacks import cuda_graph
from lightkeel.callbacks.accumulation import AccumulationScheduler
from lightkeel.callbacks.compile import Compile
from lightkeel.callbacks.cuda_graph import CUDAGraph, GraphedStep, Run
from tests.lightkeel.fitting import Given, Rows, fit


class Reruns:
    """Stands in for ``record``: a graph that computes a step anew, in the places of the first."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def record(self, run: Run) -> Callable[[], None]:
        self.captured += 1
        cells: Any = run.__closure__
        (step,) = [c.cell_contents for c in cells if isinstance(c.cell_contents, GraphedStep)]
        held = [(place, place.clone()) for _, _, place in step.state.places]
        drawn = torch.get_rng_state()
        static = run()
        self.static = [weakref.ref(tensor) for tensor in static]
        torch.set_rng_state(drawn)  # a capture computes nothing
        for place, value in held:
            place.copy_(value)
        kept = {name: vars(step)[name] for name in ("output", "gradients", "logged")}
        updates = step.state.updates

        def replay() -> None:
            self.replayed += 1
            attached = [(p, p.grad) for p in step.parameters]
            metrics: list[Any] = step.state.metrics
            notes = [(m, m._computed, m._forward_cache) for m in metrics]
            step.state.counts = [metric.update_count for metric in step.state.metrics]
            with cuda_graph.recorded_log(step.module) as step.logged:
                new = run()
            for place, value in zip(static, new, strict=True):
                place.copy_(value)
            vars(step).update(kept)
            for (_, _, place), (_, _, value) in zip(updates, step.state.updates, strict=True):
                place.copy_(value)
            step.state.updates = updates
            for parameter, gradient in attached:  # Python that a graph would not run
                parameter.grad = gradient
            for metric, computed, value in notes:
                metric._computed, metric._forward_cache = computed, value

        return replay


@pytest.fixture
def reruns(monkeypatch: pytest.MonkeyPatch) -> Reruns:
    made = Reruns()
    monkeypatch.setattr(cuda_graph, "record", made.record)
    monkeypatch.setattr(cuda_graph, "obstacle", lambda trainer, module: None)
    return made


class Net(LightningModule):
    """Dropout, batch norm, a metric with states, a buffer that is bound anew, and values logged."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)
        )
        self.size = MeanMetric()
        self.register_buffer("steps", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        out = self.net(x)[:, 0]
        self.steps = self.steps + 1
        self.size(out.detach().abs())
        loss = F.mse_loss(out, y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("size", self.size, on_step=False, on_epoch=True)
        return {"loss": loss, "out": out.detach()}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def data(number: int = 27) -> Given:
    inputs = torch.randn(number, 2, generator=torch.Generator().manual_seed(1))
    return Given(inputs, inputs.sum(1), batch_size=4)


def trained(
    folder: Path, *callbacks: Any, model: type[Net] = Net, **options: Any
) -> tuple[Net, Rows]:
    """Train for 3 epochs of 7 batches, the last of which has 3 samples and not 4."""
    made, rows = model(), Rows()
    torch.manual_seed(5)  # of dropout
    fit(folder, made, data(), *callbacks, logger=rows, max_epochs=3, **options)
    return made, rows


def assert_no_bit_changes(folder: Path, graph: CUDAGraph, *callbacks: Any, **options: Any) -> Net:
    """Compare weights, buffers and rows to those of a run without a graph."""
    plain, plain_rows = trained(folder, *callbacks, **options)
    graphed, rows = trained(folder, *callbacks, graph, **options)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, graphed.state_dict()[name]), name
    assert plain_rows.rows == rows.rows
    return graphed


def test_replayed_steps_change_no_bit(tmp_path: Path, reruns: Reruns) -> None:
    graph = CUDAGraph(warm_up_steps=2)
    graphed = assert_no_bit_changes(tmp_path, graph)
    # 21 steps: 2 to warm up, 3 last batches that are smaller.
    assert (reruns.captured, reruns.replayed) == (1, 16)
    assert graphed.steps == 21
    assert "training_step" not in vars(graphed)


def test_what_the_graph_holds_is_freed(tmp_path: Path, reruns: Reruns) -> None:
    graph = CUDAGraph(warm_up_steps=2)
    model, _ = trained(tmp_path, graph, limit_train_batches=6)
    assert reruns.replayed == 16
    assert graph.step is None
    assert [p.grad for p in model.parameters()] == [None] * 6
    assert [ref() for ref in reruns.static] == [None] * len(reruns.static)


def test_a_batch_of_a_kind_of_its_own_is_not_captured(tmp_path: Path, reruns: Reruns) -> None:
    assert_no_bit_changes(tmp_path, CUDAGraph(warm_up_steps=6))
    # After 6 steps there is a smaller batch, and the one after it is alone as yet.
    assert (reruns.captured, reruns.replayed) == (1, 5 + 6)


class Freezes(Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Net)
        pl_module.net[0].requires_grad_(trainer.current_epoch != 1)


class Calms(Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, Net)
        pl_module.net[2].train(trainer.global_step < 10)


@pytest.mark.parametrize(
    ("change", "captured", "replayed"),
    [(Freezes, 3, 5 + 5 + 5), (Calms, 2, 5 + 3 + 2 + 6)],
)
def test_a_step_that_changes_is_captured_anew(
    change: type[Callback], captured: int, replayed: int, tmp_path: Path, reruns: Reruns
) -> None:
    assert_no_bit_changes(tmp_path, CUDAGraph(1), change())
    assert (reruns.captured, reruns.replayed) == (captured, replayed)


class Fills(Net):
    """Fills gradients with zeros, gives options by position, logs a metric by step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        self.log("twice", 2 * output["loss"], False, True, True, True)
        self.log("now", self.size, on_step=True, on_epoch=False)
        return output

    def on_train_batch_end(self, *args: Any) -> None:
        self.log("so_far", self.size.compute(), on_step=True, on_epoch=False)
        self.log("updates", float(self.size.update_count), on_step=True, on_epoch=False)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=False)


def test_gradients_may_be_filled_with_zeros(tmp_path: Path, reruns: Reruns) -> None:
    assert_no_bit_changes(tmp_path, CUDAGraph(1), model=Fills)
    assert reruns.replayed == 17


class Keeps(Callback):
    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.kept.append(outputs)


def test_outputs_may_be_kept(tmp_path: Path, reruns: Reruns) -> None:
    plain, graphed = Keeps(), Keeps()
    trained(tmp_path, plain)
    trained(tmp_path, graphed, CUDAGraph(1))
    for name in ("loss", "out"):
        for expected, output in zip(plain.kept, graphed.kept, strict=True):
            assert torch.equal(expected[name], output[name])


class Counts(Net):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.number += 1
        return super().training_step(batch, batch_idx)


class CountsInPart(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        dropout: Any = self.net[2]
        dropout.p /= 2
        return super().training_step(batch, batch_idx)


class Appends(Net):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        self.losses.append(output["loss"].detach())
        return output


class Collects(Net):
    def __init__(self) -> None:
        super().__init__()
        self.all = CatMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        self.all.update(output["out"])
        return output


class Draws(Net):
    draw: Callable[[], Any]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        type(self).draw()
        return super().training_step(batch, batch_idx)


class DrawsNumpy(Draws):
    draw = staticmethod(np.random.rand)


class DrawsPython(Draws):
    draw = staticmethod(random.random)


class LogsNumber(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("number", 1.0)
        return super().training_step(batch, batch_idx)


class LogsElsewhere(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("number", torch.zeros((), device="meta"))
        return super().training_step(batch, batch_idx)


class NoLoss(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None


OFF = "\nOr switch it off: --callbacks.cuda_graph null"
KEEP = (
    ", which a graph would not. Keep it in a tensor: by register_buffer, or as a state of a metric "
    "that is no list."
)
DRAWS = ".training_step cannot be captured: it draws random numbers on the CPU, which a graph would"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Counts, f"training_step changes `number`{KEEP}"),
        (CountsInPart, f"training_step changes `net.2.p`{KEEP}"),
        (Appends, f"training_step changes `losses`{KEEP}"),
        (Collects, f"training_step changes `all.value`{KEEP}"),
        (DrawsNumpy, f"DrawsNumpy{DRAWS} repeat."),
        (DrawsPython, f"DrawsPython{DRAWS} repeat."),
        (
            LogsElsewhere,
            "LogsElsewhere.training_step cannot be captured: it logs `number` as a tensor on meta, "
            "which a graph would repeat.",
        ),
        (
            LogsNumber,
            "LogsNumber.training_step cannot be captured: it logs `number` as a number, "
            "which a graph would repeat.",
        ),
        (NoLoss, "NoLoss.training_step cannot be captured: it returned no loss."),
    ],
)
def test_what_cannot_be_captured_is_said(
    tmp_path: Path, reruns: Reruns, model: type[Net], message: str
) -> None:
    with pytest.raises(ValueError, match="training_step") as caught:
        fit(tmp_path, model(), data(), CUDAGraph(1))
    assert str(caught.value) == message + OFF


def test_random_numbers_of_the_cpu_are_refused(
    tmp_path: Path, reruns: Reruns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_rng_state", id)  # dropout draws here as it does not on a GPU
    with pytest.raises(
        ValueError, match=r"^Net\.training_step cannot be captured: it draws random"
    ):
        fit(tmp_path, Net(), data(), CUDAGraph(1))


class Waits(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        output["loss"].item()
        return output


def test_a_step_that_waits_is_refused_before_the_capture(
    tmp_path: Path, reruns: Reruns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def item(tensor: Tensor) -> None:
        raise RuntimeError("called a synchronizing CUDA operation\nand more")

    @contextmanager
    def no_waits(device: torch.device) -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(Tensor, "item", item)
            yield

    monkeypatch.setattr(cuda_graph, "no_waits", no_waits)
    steps = Keeps()
    with pytest.raises(ValueError, match="training_step") as caught:
        fit(tmp_path, Waits(), data(), steps, CUDAGraph(3))
    message = "Waits.training_step cannot be captured: called a synchronizing CUDA operation."
    assert str(caught.value) == message + OFF
    assert (len(steps.kept), reruns.captured) == (2, 0)


def test_waits_are_errors_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[Any] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with cuda_graph.no_waits(torch.device("cpu")):
        assert modes == []
    with cuda_graph.no_waits(torch.device("cuda")):
        assert modes == ["error"]
    assert modes == ["error", 1]


def test_the_error_of_the_step_is_the_one_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def graph(graph: Any, capture_error_mode: str) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    def run() -> list[Tensor]:
        try:
            raise KeyError  # of no matter
        except KeyError:
            raise RuntimeError("operation not permitted when stream is capturing")  # noqa: B904

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    with pytest.raises(RuntimeError, match=r"^operation not permitted when stream is capturing$"):
        cuda_graph.record(run)
    with pytest.raises(RuntimeError, match=r"^operation failed due to a previous error"):
        cuda_graph.record(list)


class ByHand(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class OwnIterator(Net):
    def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
        return super().training_step(*next(dataloader_iter)[:2])


class OwnBackward(Net):
    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Net, {"device": "cpu"}, "needs an NVIDIA GPU, and the run is on cpu."),
        (Net, {"world_size": 2}, "captures the step of one device, and there are 2."),
        (
            Net,
            {"accumulate_grad_batches": 3},
            "does not capture gradients that are accumulated over batches.",
        ),
        (
            Net,
            {"callbacks": [AccumulationScheduler({4: 2})]},
            "does not capture gradients that are accumulated over batches.",
        ),
        (
            Net,
            {"callbacks": [Compile("max-autotune")]},
            "captures no graphs within its own, which callbacks.compile.mode max-autotune makes.",
        ),
        (Net, {"callbacks": [Compile()]}, None),
        (OwnIterator, {}, "OwnIterator.training_step takes batches from an iterator, in Python."),
        (ByHand, {}, "ByHand optimizes by hand, step by step in Python."),
        (OwnBackward, {}, "OwnBackward has a `backward` of its own, which would not run."),
        (
            Net,
            {"scaler": object()},
            "16-bit precision scales losses by a number that changes. Use bf16-mixed.",
        ),
        (Net, {}, None),
    ],
)
def test_runs_that_are_refused(model: type[Net], options: dict[str, Any], message: str) -> None:
    chosen: dict[str, Any] = {"device": "cuda", "scaler": None, "callbacks": []}
    chosen |= {"world_size": 1, "accumulate_grad_batches": 1, **options}
    device = type("", (), {"root_device": torch.device(chosen["device"])})
    precision = type("", (), {"scaler": chosen["scaler"]})
    trainer: Any = type("", (), {**chosen, "strategy": device, "precision_plugin": precision})
    assert cuda_graph.obstacle(trainer, model()) == message
