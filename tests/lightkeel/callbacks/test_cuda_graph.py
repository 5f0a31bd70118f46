"""What a graph replays is the step itself: here, without a GPU, what a tape keeps of it."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset
from torchmetrics import CatMetric, MeanMetric, MeanSquaredError, Metric

from lightkeel.callbacks import cuda_graph, graph_capture, graphed_step
from lightkeel.callbacks.compile import Compile
from lightkeel.callbacks.cuda_graph import CUDAGraph
from lightkeel.callbacks.readings import is_row_due
from src.callbacks import GradientAccumulation
from tests.lightkeel.fitting import Given, Rows, fit
from tests.lightkeel.tape import Tape


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    made = Tape()
    monkeypatch.setattr(graphed_step, "record", made.record)
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
        self.size = MeanMetric(nan_strategy="disable")  # else it waits
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
) -> tuple[Net, Rows, Trainer]:
    """Train for 3 epochs of 7 batches, the last of which has 3 samples and not 4."""
    made, rows = model(), Rows()
    torch.manual_seed(5)  # of dropout
    options = {"max_epochs": 3, "logger": rows, **options}
    return made, rows, fit(folder, made, data(), *callbacks, **options)


def assert_no_bit_changes(folder: Path, graph: CUDAGraph, *callbacks: Any, **options: Any) -> Net:
    """Compare weights, buffers, rows and counters to those of a run without a graph."""
    plain, plain_rows, plain_trainer = trained(folder, *callbacks, **options)
    graphed, rows, trainer = trained(folder, *callbacks, graph, **options)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, graphed.state_dict()[name]), name
    assert plain_rows.rows == rows.rows
    loops = [t.fit_loop.epoch_loop.automatic_optimization for t in (plain_trainer, trainer)]
    assert loops[0].optim_progress.state_dict() == loops[1].optim_progress.state_dict()
    assert str(plain_trainer.optimizers[0].state_dict()) == str(trainer.optimizers[0].state_dict())
    return graphed


def test_replayed_steps_change_no_bit(tmp_path: Path, tape: Tape) -> None:
    graphed = assert_no_bit_changes(tmp_path, CUDAGraph(warm_up_steps=2))
    # 21 steps: 2 to warm up, 3 last batches that are smaller, 2 of the epochs after the first.
    assert (tape.captured, tape.replayed) == (1, 14)
    assert graphed.steps == 21
    assert "run" not in vars(graphed.trainer.fit_loop.epoch_loop.automatic_optimization)


class Clips(Callback):
    """Clips, and logs in the steps whose row is written, as the callback of that name does."""

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        norm = nn.utils.clip_grad_norm_(pl_module.parameters(), 0.1)
        if is_row_due(trainer, pl_module):
            pl_module.log("norm", norm)


def test_rows_are_written_by_a_graph_of_their_own(tmp_path: Path, tape: Tape) -> None:
    assert_no_bit_changes(tmp_path, CUDAGraph(2), Clips(), log_every_n_steps=2)
    # Rows are due in the steps 1, 3, ... 19. Those of them within an epoch and of four samples:
    # 1, 3, 5; 9, 11; 15, 17, 19. Others: 2, 4; 8, 10, 12; 16, 18.
    assert (tape.captured, tape.replayed) == (2, 6 + 6)


def test_few_graphs_are_kept(tmp_path: Path, tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed_step, "MOST_GRAPHS", 1)
    assert_no_bit_changes(tmp_path, CUDAGraph(2), Clips(), log_every_n_steps=2)
    assert (tape.captured, tape.replayed) == (1, 6)


class Scheduled(Net):
    """With a learning rate and a momentum that change with each step."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=22)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def test_schedules_act(tmp_path: Path, tape: Tape) -> None:
    graphed = assert_no_bit_changes(tmp_path, CUDAGraph(1), model=Scheduled)
    assert tape.captured == 1
    assert vars(graphed.trainer.optimizers[0])["step"]._wrapped_by_lr_sched


@pytest.mark.parametrize(("batches", "replayed"), [(2, 12), (3, 10), (4, 7)])
def test_accumulated_batches_have_graphs_of_their_own(
    batches: int, replayed: int, tmp_path: Path, tape: Tape
) -> None:
    """In the last window of an epoch, samples have other weights."""
    callbacks = [Clips(), GradientAccumulation(batches)]
    assert_no_bit_changes(tmp_path, CUDAGraph(1), *callbacks, log_every_n_steps=2)
    assert tape.replayed == replayed


class Alternates(Callback):
    """Trains a layer in three of four batches, so that its gradient is not always there."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, i: int) -> None:
        pl_module.net[0].requires_grad_(i % 4 != 2)


@pytest.mark.parametrize("batches", [1, 2, 3, 4])
@pytest.mark.parametrize("warm_up_steps", [1, 2])
def test_a_gradient_that_is_not_always_there(
    batches: int, warm_up_steps: int, tmp_path: Path, tape: Tape
) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": batches, "log_every_n_steps": 100}
    graph = CUDAGraph(warm_up_steps)
    assert_no_bit_changes(tmp_path, graph, Alternates(), max_epochs=4, **options)
    assert tape.replayed > 0


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(*data(5).arrays, strict=True)


def test_the_last_window_of_a_stream_steps_too(tmp_path: Path, tape: Tape) -> None:
    """Of five batches, accumulated by two, the last is a window of its own; nobody knows when."""
    found = []
    for callbacks in ([], [CUDAGraph(1)]):
        model = Net()
        loader = LightningDataModule.from_datasets(Endless(), batch_size=1)
        torch.manual_seed(5)
        options: dict[str, Any] = {"max_epochs": 4, "accumulate_grad_batches": 2}
        fit(tmp_path, model.eval(), loader, *callbacks, **options)
        found.append([p.tolist() for p in model.parameters()])
    assert found[0] == found[1]
    assert tape.replayed > 0


class Validates(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.net(batch[0]).mean())


def test_the_step_after_validation_runs_as_ever(tmp_path: Path, tape: Tape) -> None:
    """There Lightning begins anew what it accumulates of an epoch of training."""
    options = {"limit_val_batches": 1, "val_check_interval": 3}
    assert_no_bit_changes(tmp_path, CUDAGraph(1), model=Validates, **options)
    assert tape.replayed == 3 * 4  # but the batches 0, 3 and, as it is smaller, 6


def test_what_the_graph_holds_is_freed(tmp_path: Path, tape: Tape) -> None:
    graph = CUDAGraph(warm_up_steps=2)
    model, *_ = trained(tmp_path, graph, limit_train_batches=6)
    assert tape.replayed == 14
    assert graph.step is None
    assert [p.grad for p in model.parameters()] == [None] * 6
    assert [ref() for ref in tape.static] == [None] * len(tape.static)


class Freezes(Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Net)
        pl_module.net[0].requires_grad_(trainer.current_epoch != 1)


class Calms(Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, Net)
        pl_module.net[2].train(trainer.global_step < 10)


@pytest.mark.parametrize(("change", "captured"), [(Freezes, 2), (Calms, 2)])
def test_a_step_that_changes_is_captured_anew(
    change: type[Callback], captured: int, tmp_path: Path, tape: Tape
) -> None:
    assert_no_bit_changes(tmp_path, CUDAGraph(1), change())
    assert tape.captured == captured


class Resets(Net):
    """Computes a metric in each step, and begins it anew."""

    def __init__(self) -> None:
        super().__init__()
        self.error = MeanSquaredError()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        self.error.update(output["out"], batch[1])
        self.log("error", self.error.compute(), on_step=True, on_epoch=True)
        self.error.reset()
        return output


def test_a_metric_may_be_reset_in_a_step(tmp_path: Path, tape: Tape) -> None:
    assert_no_bit_changes(tmp_path, CUDAGraph(1), model=Resets)


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


def test_gradients_may_be_filled_with_zeros(tmp_path: Path, tape: Tape) -> None:
    assert_no_bit_changes(tmp_path, CUDAGraph(1), model=Fills)
    assert tape.replayed == 15


class Keeps(Callback):
    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.kept.append({**outputs, "logged": trainer.callback_metrics.get("loss_step")})


def test_outputs_may_be_kept(tmp_path: Path, tape: Tape) -> None:
    plain, graphed = Keeps(), Keeps()
    trained(tmp_path, plain)
    trained(tmp_path, graphed, CUDAGraph(1))
    for name in ("loss", "out", "logged"):
        for expected, output in zip(plain.kept[1:], graphed.kept[1:], strict=True):
            assert torch.equal(expected[name], output[name]), name


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
        self.all = CatMetric(nan_strategy="disable")

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
        if self.trainer.global_step == 1:
            self.log("number", torch.zeros((), device="meta"))
        return super().training_step(batch, batch_idx)


class ReadsBatch(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        return output["loss"] * (1 + batch_idx)


class ReadsEpoch(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        return output["loss"] * min(1.0, 0.1 * self.current_epoch)


class ReturnsNumber(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, 0) | {"size": 4}


class Means(Metric):
    """Averages by its number of updates, as some metrics of images do."""

    full_state_update = False
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("mean", torch.zeros(()), dist_reduce_fx="mean")

    def update(self, values: Tensor) -> None:
        self.mean = values.mean()

    def compute(self) -> Tensor:
        return self.mean


class AveragesCount(Net):
    def __init__(self) -> None:
        super().__init__()
        self.means = Means()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        self.means(output["out"])
        return output


class InDictionary(Net):
    def __init__(self) -> None:
        super().__init__()
        self.counts = {"steps": 0}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.counts["steps"] += 1
        return super().training_step(batch, batch_idx)


class NoLoss(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None


OFF = "\nOr switch it off: --callbacks.cuda_graph null"
KEEP = (
    ", which a graph would not. Keep it in a tensor: by register_buffer, or as a state of a metric "
    "that is no list."
)
READS = (
    " cannot be captured: it reads the number of its batch, step or epoch, which a graph would "
    "repeat."
)
DRAWS = " cannot be captured: it draws random numbers on the CPU, which a graph would repeat."


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Counts, f"the step changes `number`{KEEP}"),
        (CountsInPart, f"the step changes `net.2.p`{KEEP}"),
        (Appends, f"the step changes `losses`{KEEP}"),
        (Collects, f"the step changes `all.value`{KEEP}"),
        (DrawsNumpy, f"the step of DrawsNumpy{DRAWS}"),
        (DrawsPython, f"the step of DrawsPython{DRAWS}"),
        (
            LogsElsewhere,
            "the step of LogsElsewhere cannot be captured: it logs `number` as a tensor on meta, "
            "which a graph would repeat.",
        ),
        (
            LogsNumber,
            "the step of LogsNumber cannot be captured: it logs `number` as a number, "
            "which a graph would repeat.",
        ),
        (ReadsBatch, f"the step of ReadsBatch{READS}"),
        (ReadsEpoch, f"the step of ReadsEpoch{READS}"),
        (
            ReturnsNumber,
            "the step of ReturnsNumber cannot be captured: it returns 4, a number, which a graph "
            "would repeat.",
        ),
        (
            AveragesCount,
            "the step of AveragesCount cannot be captured: Means averages by its number of "
            "updates. Use `update`.",
        ),
        (InDictionary, f"the step changes `counts`{KEEP}"),
        (NoLoss, "the step of NoLoss cannot be captured: it returned no loss."),
    ],
)
def test_what_cannot_be_captured_is_said(
    tmp_path: Path, tape: Tape, model: type[Net], message: str
) -> None:
    with pytest.raises(ValueError, match="the step") as caught:
        fit(tmp_path, model(), data(), CUDAGraph(1))
    assert str(caught.value) == message + OFF


class Watches(Callback):
    def __init__(self) -> None:
        self.seen = 0

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen += 1


class Remembers(Net):
    """Keeps tensors in plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.running = torch.zeros(())
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        self.running = 0.9 * self.running + 0.1 * output["loss"].detach()
        return output

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen.append(float(self.running))


def test_tensors_in_attributes(tmp_path: Path, tape: Tape) -> None:
    graphed = assert_no_bit_changes(tmp_path, CUDAGraph(1), model=Remembers)
    plain, *_ = trained(tmp_path, model=Remembers)
    assert isinstance(plain, Remembers)
    assert isinstance(graphed, Remembers)
    assert graphed.seen == plain.seen
    assert tape.replayed > 0


class Sharpens(Callback):
    """Changes between epochs what steps compute with."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net[2].p = 0.1 * trainer.current_epoch


class Hooks(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net[3].register_forward_hook(lambda layer, args, out: 2 * out)


class Replaces(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.net[2] = nn.Tanh()


@pytest.mark.parametrize("change", [Sharpens, Hooks, Replaces])
def test_what_changes_between_epochs(change: type[Callback], tmp_path: Path, tape: Tape) -> None:
    assert_no_bit_changes(tmp_path, CUDAGraph(1), change())
    assert tape.captured >= 2


class OfArray(Net):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return (*batch, np.zeros(1))


class OfDictionary(Net):
    """Takes a dictionary, with a dataclass in it."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {"both": Pair(*batch[:2]), "name": "train"}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch["both"].x, batch["both"].y), batch_idx)


@dataclass
class Pair:
    x: Tensor
    y: Tensor


def test_batches_of_any_kind(tmp_path: Path, tape: Tape) -> None:
    assert_no_bit_changes(tmp_path, CUDAGraph(1), model=OfDictionary)
    assert tape.replayed == 15
    with pytest.raises(ValueError, match=r"^no step can be captured: a batch holds a ndarray, "):
        trained(tmp_path, CUDAGraph(1), model=OfArray)


@pytest.mark.parametrize(
    ("tensor", "what"),
    [(torch.eye(2), "cpu, torch.strided"), (torch.eye(2).to_sparse(), "cpu, torch.sparse_coo")],
)
def test_tensors_that_cannot_be_copied_to(tensor: Tensor, what: str) -> None:
    """Of those of the CPU, Python reads the values; sparse ones have no place of their own."""
    device = torch.device("cpu" if tensor.is_sparse else "cuda")
    with pytest.raises(
        ValueError, match=f"^no step can be captured: a batch holds a tensor on {what}"
    ):
        graph_capture.flattened({"x": tensor}, device)


def test_hooks_that_count_are_refused(tmp_path: Path, tape: Tape) -> None:
    with pytest.raises(ValueError, match=r"^the step changes `Watches\[1\]\.seen`, "):
        trained(tmp_path, CUDAGraph(1), Watches())


class Twice(torch.optim.SGD):
    """Looks at the loss twice, as SAM does."""

    def step(self, closure: Any = None) -> Any:
        closure()
        return super().step(closure)


class StepsTwice(Net):
    def configure_optimizers(self) -> Any:
        return Twice(self.parameters(), lr=0.01)


def test_steps_that_compute_losses_twice_are_refused(tmp_path: Path, tape: Tape) -> None:
    with pytest.raises(ValueError, match=r"^Twice computes losses several times a step"):
        trained(tmp_path, CUDAGraph(1), model=StepsTwice)


class Stray(Net):
    """Has a step that waits, and an error of its own in the one before the capture."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 1:
            return self.net(torch.zeros(3, 5))
        return super().training_step(batch, batch_idx)


def test_a_crash_is_a_crash(tmp_path: Path, tape: Tape) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trained(tmp_path, CUDAGraph(2), model=Stray)


class LogsLate(Net):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.trainer.global_step == 2:
            self.log("late", 1.0)


class Looks(Callback):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def look(self, trainer: Trainer, module: Any) -> None:
        held = (module.steps, module.size.weight)
        self.seen = [*self.seen[-1:], ([*map(id, held)], trainer.global_step, vars(module).keys())]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.look(trainer, pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: Any) -> None:
        self.look(trainer, pl_module)


@pytest.mark.parametrize(
    ("model", "message"),
    [(LogsLate, "it logs `late` as a number"), (Counts, "the step changes `number`")],
)
def test_a_capture_that_fails_leaves_nothing(
    model: type[Net], message: str, tmp_path: Path, tape: Tape
) -> None:
    looks = Looks()
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, looks, CUDAGraph(2), model=model)
    assert looks.seen[0] == looks.seen[1]


class Kept(Net):
    """Has a metric that keeps what it was called with, and the way there."""

    def __init__(self) -> None:
        super().__init__()
        self.error = MeanSquaredError()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        out = self.net(x)[:, 0]
        self.error(out, y)
        self.log("error", self.error, on_step=True, on_epoch=True)
        return F.mse_loss(out, y)


def test_no_backward_pass_is_kept(
    tmp_path: Path, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of eager steps that are alive at a capture would break it, on another stream."""
    model = Kept()
    last: list[Any] = []

    def record(run: Any) -> Callable[[], None]:
        last.append(model.error._forward_cache)
        return tape.record(run)

    monkeypatch.setattr(graphed_step, "record", record)
    seen = []

    class Looks(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            seen.append(pl_module.error._forward_cache.requires_grad)

    fit(tmp_path, model, data(), CUDAGraph(1), Looks(), limit_train_batches=4)
    assert seen == [True, False, False, False]
    assert [(value.requires_grad, value > 0) for value in last] == [(False, True)]
    assert_no_bit_changes(tmp_path, CUDAGraph(1), model=Kept)


def test_no_memory_is_no_bad_input(tmp_path: Path, tape: Tape) -> None:
    class Grows(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.trainer.global_step:
                raise torch.OutOfMemoryError("of 80 GiB none is left")
            return super().training_step(batch, batch_idx)

    with pytest.raises(torch.OutOfMemoryError, match=r"^of 80 GiB none is left$"):
        trained(tmp_path, CUDAGraph(1), model=Grows)


def test_steps_that_are_never_alike_are_said(
    tmp_path: Path, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Moves(Net):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            first: Any = self.net[0]
            first.weight.data = first.weight.data.clone()
            self.kept = [*getattr(self, "kept", []), first.weight.data]

    monkeypatch.setattr(graphed_step, "MOST_KINDS", 4)
    with pytest.raises(ValueError, match=r"^finds no step to capture: ") as caught:
        trained(tmp_path, CUDAGraph(1), model=Moves)
    assert str(caught.value) == (
        f"finds no step to capture: of 4 kinds none came often. What changes is the layers.{OFF}"
    )


def test_kinds_that_do_not_come_again_are_forgotten(
    tmp_path: Path, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of batches of any length, say, beside usual ones; else they would fill memory."""
    graph = CUDAGraph(1)
    known: list[int] = []

    class Moves(Net):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            first: Any = self.net[0]
            if self.trainer.global_step > 3:
                first.weight.data = first.weight.data.clone()
                self.kept = [*getattr(self, "kept", []), first.weight.data]

        def on_train_batch_end(self, *args: Any) -> None:
            assert graph.step is not None
            known.append(len(graph.step.seen))

    monkeypatch.setattr(graphed_step, "MOST_KINDS", 2)
    trained(tmp_path, graph, model=Moves, max_epochs=1)
    assert tape.replayed == 3
    assert max(known) == 2


def test_random_numbers_of_the_cpu_are_refused(
    tmp_path: Path, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_rng_state", id)  # dropout draws here as it does not on a GPU
    with pytest.raises(ValueError, match=r"^the step of Net cannot be captured: it draws random"):
        fit(tmp_path, Net(), data(), CUDAGraph(1))


class Waits(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        output["loss"].item()
        return output


@pytest.fixture
def no_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``.item()`` raise where a GPU would."""

    def item(tensor: Tensor) -> None:
        raise RuntimeError("called a synchronizing CUDA operation\nand more")

    @contextmanager
    def no_waits(device: torch.device) -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(Tensor, "item", item)
            yield

    monkeypatch.setattr(graph_capture, "no_waits", no_waits)


def test_a_step_that_waits_is_refused_before_the_capture(
    tmp_path: Path, tape: Tape, no_items: None
) -> None:
    steps = Keeps()
    with pytest.raises(ValueError, match="the step") as caught:
        fit(tmp_path, Waits(), data(), steps, CUDAGraph(3))
    message = "the step of Waits cannot be captured: called a synchronizing CUDA operation."
    assert str(caught.value) == message + OFF
    assert (len(steps.kept), tape.captured) == (2, 0)


class WaitsOnce(Callback):
    """As what is logged for the first time does."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if is_row_due(trainer, pl_module) and trainer.global_step < 3:
            next(pl_module.parameters()).sum().item()


def test_a_kind_of_steps_may_wait_once(tmp_path: Path, tape: Tape, no_items: None) -> None:
    trained(tmp_path, WaitsOnce(), CUDAGraph(1), log_every_n_steps=3)
    assert tape.captured == 2


def test_waits_are_errors_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[Any] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with graph_capture.no_waits(torch.device("cpu")):
        assert modes == []
    with graph_capture.no_waits(torch.device("cuda")):
        assert modes == ["error"]
    assert modes == ["error", 1]


def test_the_error_of_the_step_is_the_one_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def graph(graph: Any, capture_error_mode: str) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    def run() -> None:
        try:
            raise KeyError  # of no matter
        except KeyError:
            raise RuntimeError("operation not permitted when stream is capturing")  # noqa: B904

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    with pytest.raises(RuntimeError, match=r"^operation not permitted when stream is capturing$"):
        graph_capture.record(run)
    with pytest.raises(RuntimeError, match=r"^operation failed due to a previous error"):
        graph_capture.record(lambda: None)


class ByHand(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class OwnIterator(Net):
    def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
        return super().training_step(*next(dataloader_iter)[:2])


class OwnStep(Net):
    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """Warm up, as Lightning's documentation has it."""


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Net, {"device": "cpu"}, "needs an NVIDIA GPU, and the run is on cpu."),
        (
            Net,
            {"strategy": DDPStrategy},
            "captures steps of one device alone, not of DDPStrategy.",
        ),
        (
            Net,
            {"callbacks": [Compile("max-autotune")]},
            "captures no graphs within its own, which callbacks.compile.mode max-autotune makes.",
        ),
        (Net, {"callbacks": [Compile()]}, None),
        (OwnIterator, {}, "OwnIterator.training_step takes batches from an iterator, in Python."),
        (ByHand, {}, "ByHand optimizes by hand, step by step in Python."),
        (OwnStep, {}, "OwnStep has an `optimizer_step` of its own, in Python."),
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
    chosen |= {"strategy": SingleDeviceStrategy}
    chosen |= options
    kind = chosen.pop("strategy")
    device = {"root_device": torch.device(chosen["device"])}
    strategy = type(kind.__name__, (kind,), {"__init__": lambda self: None, **device})()
    precision = type("", (), {"scaler": chosen["scaler"]})
    trainer: Any = SimpleNamespace(**chosen, strategy=strategy, precision_plugin=precision)
    assert cuda_graph.obstacle(trainer, model()) == message
