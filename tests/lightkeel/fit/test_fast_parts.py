"""What ``fit/fastpath`` replaces of PyTorch, torchmetrics and the trainer answers as before."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader
from torchmetrics import Metric, MetricCollection

from lightkeel.fit import fastpath
from lightkeel.fit.fastpath import hooks, step


class Owner(Metric):
    """A metric with a state, a buffer, a module, a parameter and a property."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0))
        self.register_buffer("held", torch.ones(1))
        self.inner = torch.nn.Linear(1, 1)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.owned = 1

    @property
    def owned(self) -> Any:
        return self.__dict__["owned"]

    @owned.setter
    def owned(self, value: Any) -> None:
        self.__dict__["owned"], self.__dict__["text"] = value, str(value)

    def update(self) -> None: ...

    def compute(self) -> None: ...


def kept(metric: Metric) -> dict[str, Any]:
    """List what ``Module.__setattr__`` has put where."""
    places = ("_buffers", "_parameters", "_modules", "_non_persistent_buffers_set")
    found = {place: [*getattr(metric, place)] for place in places}
    return found | {name: vars(metric).get(name) for name in ("total", "owned", "new", "text")}


VALUES: dict[str, Any] = {
    "tensor": torch.ones(1),
    "buffer": torch.nn.Buffer(torch.ones(1)),
    "parameter": torch.nn.Parameter(torch.ones(1)),
    "module": torch.nn.Identity(),
    **{str(value): value for value in (None, 2, 0.5, True, "text", [1])},
}


@pytest.mark.parametrize("name", ["total", "new", "held", "inner", "weight", "owned", "device"])
@pytest.mark.parametrize("value", VALUES)
def test_attributes_are_set_as_before(name: str, value: str) -> None:
    found: list[Any] = []
    for set_attribute in (step.SET_ATTRIBUTE, step.set_attribute):
        metric = Owner()
        try:
            set_attribute(metric, name, VALUES[value])
            found.append(kept(metric) | {"value": getattr(metric, name)})
        except (AttributeError, TypeError, KeyError) as error:
            found.append(error)
    assert str(found[0]) == str(found[1])


def test_attributes_are_set_without_a_search() -> None:
    metric, collection = Owner(), MetricCollection([Owner()])
    with fastpath.active(), patch.object(torch.nn.Module, "__setattr__", side_effect=KeyError):
        metric.total, metric._computed = torch.ones(()), None
        collection._state_is_copy = True
        for other in (metric, collection):
            with pytest.raises(KeyError):
                other.new = 1
    assert (metric.total, collection._state_is_copy) == (1, True)
    with fastpath.active(), pytest.raises(RuntimeError, match="change const"):
        metric.higher_is_better = True


def test_labels_are_there_while_somebody_records() -> None:
    optimizer = torch.optim.SGD(BoringModel().parameters())
    loader: Any = DataLoader(range(2))  # type: ignore[arg-type]
    with fastpath.active():
        with torch.profiler.profile() as recorded:
            optimizer.step()
            next(iter(loader))
        label: Any = torch.autograd.profiler.record_function("a")
    assert label is step.NOTHING
    names = {event.name for event in recorded.events()}
    assert "Optimizer.step#SGD.step" in names
    assert any("DataLoader" in name for name in names)


@pytest.mark.parametrize("is_warned", [False, True])
@pytest.mark.parametrize("is_capturing", [False, True])
def test_captures_are_checked(is_warned: bool, is_capturing: bool) -> None:
    optimizer: Any = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    optimizer._warned_capturable_if_run_uncaptured = is_warned
    asked: list[Any] = []
    with (
        patch.object(step, "CHECK", asked.append),
        patch.object(torch.cuda, "is_initialized", lambda: True),
        patch.object(torch.cuda, "is_current_stream_capturing", lambda: is_capturing),
        fastpath.active(),
    ):
        optimizer.step()
    assert asked == [optimizer] * (is_capturing or not is_warned)


def test_tensors_are_grouped_as_before() -> None:
    tensors: Any = [[torch.ones(1), torch.ones(2), torch.ones(1, dtype=torch.float64)], [None] * 3]
    expected = clip_grad._group_tensors_by_device_and_dtype(tensors, True)  # type: ignore[attr-defined]
    assert len(expected) == 2
    assert str(step.group_tensors(tensors, True)) == str(expected)


class Mode(TorchFunctionMode):
    """Notes the functions of PyTorch that are called."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def test_a_mode_sees_the_backward_pass() -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    loss = weight * 2
    with Mode() as mode:
        step.backward(BoringModel(), loss)
    assert "backward" in mode.seen
    assert weight.grad == 2


class Overrides(LightningModule):
    """Overrides some methods of a module, in several ways."""

    training_step = BoringModel.training_step

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any: ...

    @torch.no_grad()
    def validation_step(self, *args: Any) -> None: ...


class Borrows(Callback):
    """Has a hook that no module overrides, but a callback does."""

    on_fit_start = LightningModule.on_fit_start  # type: ignore[assignment]


METHODS = [
    lambda *_: None,
    partial(print),
    Mock(wraps=BoringModel.test_step),
    Mock(),
    partial(Overrides.test_step, 1),  # type: ignore[arg-type]
    None,
]


def variants() -> Iterator[tuple[str, Any]]:
    """List instances with a method that they override, or not."""
    for name in ("training_step", "on_after_batch_transfer", "validation_step", "test_step", "no"):
        yield from ((name, instance) for instance in (Overrides(), BoringDataModule(), Callback()))
        for method in METHODS:
            instance = Overrides()
            instance.__dict__[name] = method
            yield name, instance
    yield from (("training_step", None), ("training_step", 3))
    yield from (("on_fit_start", Overrides()), ("on_fit_start", Borrows()))


def test_methods_that_are_overridden_are_found_as_before() -> None:
    def answer(asked: Any, name: str, instance: Any) -> Any:
        try:
            return asked(name, instance)
        except (ValueError, AttributeError) as error:
            return str(error)

    cases = [*variants()] * 2
    expected = [answer(hooks.IS_OVERRIDDEN, *case) for case in cases]
    assert [answer(hooks.is_overridden, *case) for case in cases] == expected
    assert {True, False} < {*expected}
    assert not hooks.is_overridden("training_step", BoringModel(), BoringModel)
    with patch.object(hooks, "IS_OVERRIDDEN", side_effect=AssertionError):
        assert hooks.is_overridden("training_step", Overrides())
    with patch.object(Overrides, "training_step", LightningModule.training_step):
        assert not hooks.is_overridden("training_step", Overrides())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", [*RunningStage, None])
def test_results_are_those_of_the_stage(stage: RunningStage | None) -> None:
    trainer: Any = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.state.stage, trainer.state.fn = stage, TrainerFn.FITTING
    trainer.fit_loop.epoch_loop._results, trainer.fit_loop.epoch_loop.val_loop._results = "a", "b"
    expected = trainer._results
    with fastpath.active():
        assert trainer._results is expected
    assert (expected == "a") is (stage is RunningStage.TRAINING)


def test_profilers_of_ones_own_are_started() -> None:
    class Own(PassThroughProfiler):
        def start(self, action_name: str) -> None:
            started.append(action_name)

    started: list[str] = []
    with fastpath.active():
        for profiler in (PassThroughProfiler(), Own()):
            with profiler.profile("action") as name:
                assert name == "action"
    assert started == ["action"]
