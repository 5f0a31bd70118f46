"""What ``fit/fastpath`` replaces is there, is used, and makes no difference but in time."""

import ast
import hashlib
import inspect
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning
import pytest
import torch
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _ResultCollection,
    _ResultMetric,
)
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning_utilities.core import overrides
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, stat_scores

from lightkeel.fit import fastpath
from lightkeel.fit.fastpath import hooks, logged, step
from lightkeel.fit.fit import fit_and_test
from src.callbacks import GradientClipping
from src.train import main as train
from tests.lightkeel.conftest import TINY
from tests.lightkeel.on_gpu import Calls
from tests.lightkeel.soak import content, differences
from tests.lightkeel.test_zoo import Case

STEP_OUTPUT = ClosureResult.from_training_step_output
RELIED_ON: dict[str, Any] = {
    # What is replaced, and what stands in for it by doing the same.
    "LightningModule.log": logged.LOG,
    "LightningModule.configure_gradient_clipping": step.CLIPPING,
    "LightningModule.clip_gradients": LightningModule.clip_gradients,
    "Precision._clip_gradients": step.CLIP,
    "call._call_callback_hooks": hooks.CALLBACK_HOOKS,
    "call._call_lightning_module_hook": hooks.MODULE_HOOK,
    "call._call_strategy_hook": hooks.STRATEGY_HOOK,
    "_LoggerConnector.teardown": logged.TEARDOWN,
    "_LoggerConnector.progress_bar_metrics": _LoggerConnector.progress_bar_metrics,
    "ClosureResult.from_training_step_output": step.STEP_OUTPUT,
    "ClosureResult._clone_loss": ClosureResult._clone_loss,
    "LightningModule.backward": step.BACKWARD,
    "_multiclass_stat_scores_update": step.COUNT,
    "convert_tensors_to_scalars": convert_tensors_to_scalars,
    "is_param_in_hook_signature": is_param_in_hook_signature,
    "Trainer._results": hooks.RESULTS,
    "Trainer._active_loop": Trainer._active_loop,
    "_FitLoop._results": _FitLoop._results,
    "model_helpers.is_overridden": hooks.IS_OVERRIDDEN,
    "overrides.is_overridden": overrides.is_overridden,
    "Profiler.profile": inspect.unwrap(hooks.PROFILE),
    "Metric.__setattr__": step.SET_ATTRIBUTE,
    # What the cheap log knows of.
    "LightningModule.__to_tensor": LightningModule._LightningModule__to_tensor,  # type: ignore[attr-defined]
    "_LoggerConnector.should_reset_tensors": _LoggerConnector.should_reset_tensors,
    "_ResultCollection.log": inspect.unwrap(_ResultCollection.log),
    "_ResultCollection.update_metrics": inspect.unwrap(_ResultCollection.update_metrics),
    "_ResultCollection._extract_batch_size": _ResultCollection._extract_batch_size,
    "_ResultCollection.metrics": _ResultCollection.metrics,
    "_ResultMetric.update": _ResultMetric.update,
    "_ResultMetric.forward": _ResultMetric.forward,
}
DIGESTS = {
    # of Lightning 2.6.6 and torchmetrics 1.9.0
    "LightningModule.log": "49083e8c",
    "LightningModule.configure_gradient_clipping": "e29dac0c",
    "LightningModule.clip_gradients": "7d6824a0",
    "Precision._clip_gradients": "74855bf0",
    "call._call_callback_hooks": "1c6b5eb7",
    "call._call_lightning_module_hook": "34115b36",
    "call._call_strategy_hook": "7c94751b",
    "_LoggerConnector.teardown": "517b5836",
    "_LoggerConnector.progress_bar_metrics": "dbd77483",
    "ClosureResult.from_training_step_output": "98820076",
    "ClosureResult._clone_loss": "02a795e8",
    "LightningModule.backward": "7023e823",
    "_multiclass_stat_scores_update": "d71485fa",
    "convert_tensors_to_scalars": "0ed601a5",
    "is_param_in_hook_signature": "bd4c75a2",
    "Trainer._results": "70c42562",
    "Trainer._active_loop": "e78f3cfe",
    "_FitLoop._results": "308cead4",
    "model_helpers.is_overridden": "bbaab5be",
    "overrides.is_overridden": "e78f2c5e",
    "Profiler.profile": "f1a72fb4",
    "Metric.__setattr__": "e0eb6906",
    "LightningModule.__to_tensor": "7cf404c3",
    "_LoggerConnector.should_reset_tensors": "902692f7",
    "_ResultCollection.log": "37270f5c",
    "_ResultCollection.update_metrics": "9ad2d34e",
    "_ResultCollection._extract_batch_size": "1659e174",
    "_ResultCollection.metrics": "b8dd758a",
    "_ResultMetric.update": "0a5f4dd2",
    "_ResultMetric.forward": "94984c64",
}


def digest(function: Any) -> str:
    """Sum up the code of a function, whatever its comments and docstrings."""
    code: Any = function.fget if isinstance(function, property) else function
    source = inspect.getsource(code)
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha1(ast.unparse(tree).encode()).hexdigest()[:8]


@pytest.mark.parametrize("name", RELIED_ON)
def test_lightning_still_does_what_is_relied_on(name: str) -> None:
    """Where this fails: read what has changed, mend `fastpath`, then note the new digest."""
    assert digest(RELIED_ON[name]) == DIGESTS[name]


def names(seam: tuple[Any, str, Any]) -> str:
    return f"{seam[0].__name__.rpartition('.')[2]}.{seam[1]}"


class Model(BoringModel):
    """Logs two values in each step, and updates a metric."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(2, average="micro", validate_args=False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output: Any = super().training_step(batch, batch_idx)
        self.accuracy.update(batch[:, :2].detach(), torch.zeros(len(batch)))
        self.log("loss", output["loss"], prog_bar=True, on_step=True, on_epoch=True)
        self.log("index", float(batch_idx))
        return output


class Whole(Model):
    """Updates a collection of metrics too, and has an optimizer that groups gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = MetricCollection({"acc": self.accuracy})

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.metrics.update(batch[:, :2].detach(), torch.zeros(len(batch)))
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.layer.parameters(), fused=True)


def fit(folder: Path, model: LightningModule, *callbacks: Callback, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "callbacks": list(callbacks),
        "default_root_dir": folder,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "limit_train_batches": 4,
        "limit_val_batches": 2,
        "log_every_n_steps": 2,
        "logger": CSVLogger(folder),
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
    }
    datamodule = options.pop("datamodule", None)
    trainer = Trainer(**{**settings, **options})
    trainer.fit(model, datamodule=datamodule)
    return trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seam", fastpath.SEAMS, ids=names)
def test_lightning_goes_through_the_seam(seam: tuple[Any, str, Any], tmp_path: Path) -> None:
    owner, name, replacement = seam
    calls = []
    is_property = isinstance(replacement, property)
    function: Callable[..., Any] = replacement.fget if is_property else replacement

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return function(*args, **kwargs)

    watched = property(counting) if is_property else counting
    with fastpath.active(), patch.object(owner, name, watched):
        trainer = fit(tmp_path, Whole(), GradientClipping(1.0), datamodule=BoringDataModule())
        assert set(trainer.progress_bar_metrics) == {"loss_step", "loss_epoch"}
    assert calls


@pytest.mark.filterwarnings("ignore")
def test_lightning_is_left_as_it_was(tmp_path: Path) -> None:
    def state() -> list[Any]:
        return [inspect.getattr_static(owner, name) for owner, name, _ in fastpath.SEAMS]

    before = state()
    with fastpath.active():
        assert [id(now) for now in state()] == [id(new) for _, _, new in fastpath.SEAMS]
        with fastpath.active():
            assert fastpath.is_active()
        assert fastpath.is_active()
    assert not fastpath.is_active()
    assert state() == before
    with pytest.raises(KeyError), fastpath.active():
        raise KeyError
    assert state() == before
    with fastpath.active():
        trainer = fit(tmp_path, Model())
    shown = trainer.progress_bar_metrics  # by Lightning's own
    assert [type(value) for value in shown.values()] == [float, float]


def test_one_setting_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastpath.is_wanted()
    monkeypatch.setenv("LIGHTKEEL_FASTPATH", "0")
    with fastpath.active():
        assert not fastpath.is_active()
    monkeypatch.delenv("LIGHTKEEL_FASTPATH")
    for version, is_tested in (
        ("2.5.6", False),
        ("2.6.0", True),
        ("2.6.9", True),
        ("2.7.0", False),
    ):
        monkeypatch.setattr(lightning, "__version__", version)
        with fastpath.active():
            assert fastpath.is_active() is is_tested


TINY_CASES = {
    "tiny": [*TINY, "--run_name", "run"],
    "linear_regression": [
        *("--config", "linear_regression", "--run_name", "run", "--data.num_samples", "500"),
        *("--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "2"),
    ],
}
FOREIGN = ("LogsBoth", "WithMetrics", "GAN", "LogsStep", "LogsValSteps", "ManualAccumulation")
QUICK = ("tiny", "LogsBoth", "WithMetrics", "ManualAccumulation")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in QUICK else [pytest.mark.slow])
        for case in (*TINY_CASES, *FOREIGN)
    ],
)
def test_no_bit_of_a_run_changes(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    was_active = []

    def watched(*args: Any) -> Any:
        was_active.append(fastpath.is_active())
        return fit_and_test(*args)

    monkeypatch.setattr("lightkeel.fit.fit.fit_and_test", watched)
    for switch in ("0", "1"):
        monkeypatch.setenv("LIGHTKEEL_FASTPATH", switch)
        folder = tmp_path / switch
        foreign = Case(case).command(folder)
        args = [*TINY_CASES[case], "--runs_dir", str(folder)] if case in TINY_CASES else foreign
        assert train(args) == 0
        (run,) = folder.glob("*/run")
        found[switch] = content(run)
    assert was_active == [False, True]
    assert differences(found["0"], found["1"]) == []
    assert any(".state_dict." in name for name in found["0"]), list(found["0"])[:9]


class Recorder(Callback):
    """Notes each hook, and what Lightning holds the hook to be."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        for hook in ("on_train_batch_start", "on_before_zero_grad", "on_train_batch_end"):
            setattr(self, hook, lambda trainer, module, *_, h=hook: self.note(h, module))

    def note(self, hook: str, module: LightningModule) -> None:
        self.seen.append((hook, module._current_fx_name))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note("on_after_backward", pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note("on_validation_end", pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note("on_train_epoch_end", pl_module)  # Lightning asks twice, for some callbacks each


class Noting(Model):
    """Notes its own hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(self._current_fx_name)
        return super().training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.seen.append(self._current_fx_name)

    def configure_gradient_clipping(self, optimizer: Any, *values: Any, **named: Any) -> None:
        self.seen.append((self._current_fx_name, values, named))

    def lr_scheduler_step(self, *args: Any) -> None:
        self.seen.append(self._current_fx_name)
        super().lr_scheduler_step(*args)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("profiler", [None, SimpleProfiler, PassThroughProfiler])
def test_the_same_hooks_are_called(profiler: Any, tmp_path: Path) -> None:
    seen = []
    for enabled in ("0", "1"):
        recorder, model = Recorder(), Noting()
        chosen = profiler() if profiler else None
        with patch.dict(os.environ, LIGHTKEEL_FASTPATH=enabled), fastpath.active():
            assert fastpath.is_active() is (enabled == "1")
            fit(tmp_path, model, recorder, profiler=chosen)
        actions = getattr(chosen, "recorded_durations", {})
        seen.append((recorder.seen, model.seen, {k: len(v) for k, v in actions.items()}))
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == 4 * 8 + 2 + 2
    assert bool(seen[0][2]) is (profiler is SimpleProfiler)


@pytest.mark.filterwarnings("ignore")
def test_idle_hooks_are_not_called(tmp_path: Path) -> None:
    called = []

    class Idle(Callback):
        """Overrides nothing."""

    def noted(self: Callback, *args: Any) -> None:
        called.append(type(self))

    with patch.object(Callback, "on_train_batch_end", noted), fastpath.active():
        fit(tmp_path, Model(), Idle())
    assert called == []


@pytest.mark.filterwarnings("ignore")
def test_a_step_takes_few_calls(tmp_path: Path) -> None:
    numbers = []
    for enabled in ("0", "1"):
        Calls.so_far = []
        others = [GradientClipping(1.0), *(Callback() for _ in range(10))]
        with patch.dict(os.environ, LIGHTKEEL_FASTPATH=enabled), fastpath.active():
            fit(tmp_path, Model(), Calls(), *others, max_epochs=1, log_every_n_steps=100)
        numbers.append(Calls.so_far[2])
    assert numbers[1] <= 900  # 855 with Python 3.11 and PyTorch 2.15
    assert numbers[0] > 5 * numbers[1]


@pytest.mark.filterwarnings("ignore")
def test_hooks_that_come_and_go_are_called(tmp_path: Path) -> None:
    called: list[str] = []

    class Late(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            if trainer.global_step == 1:
                self.on_train_batch_end = lambda *_: called.append("own")  # type: ignore[method-assign]
            if trainer.global_step == 2:
                trainer.callbacks = [*trainer.callbacks, Added()]
            if trainer.global_step == 3:
                trainer.callbacks.pop()
                del self.on_train_batch_end

    class Added(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            called.append("added")

    found = []
    for enabled in ("0", "1"):
        called.clear()
        with patch.dict(os.environ, LIGHTKEEL_FASTPATH=enabled), fastpath.active():
            fit(tmp_path, Model(), Late(), max_epochs=1)
        found.append(list(called))
    assert found == [["own", "own", "added"]] * 2


def test_signatures_are_read_once() -> None:
    class Own(BoringModel):
        def training_step(self, batch: Any, batch_idx: int, extra: int = 0) -> Any: ...

    class Short(BoringModel):
        def training_step(self, batch: Any) -> Any: ...  # type: ignore[override]

    questions: list[Any] = [("batch_idx",), ("batch_idx", False, 2), ("dataloader_iter", True)]
    steps = [model().training_step for model in (Own, Short, BoringModel)]
    asked = [(step, *question) for step in steps for question in questions]
    expected = [is_param_in_hook_signature(*each) for each in asked]
    assert [hooks.is_parameter(*each) for each in asked] == expected
    assert set(expected) == {True, False}
    with patch.object(inspect, "getfullargspec", side_effect=AssertionError):
        assert hooks.is_parameter(Own().training_step, "batch_idx")


def test_a_loss_is_copied_and_not_divided_by_one() -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    for output, normalize in ((weight * 2, 1), (weight * 2, 2), ({"loss": weight * 2, "a": 1}, 1)):
        found, expected = (make(output, normalize) for make in (step.step_output, STEP_OUTPUT))
        assert found.asdict() == expected.asdict()
        assert found.loss is not None
        assert not found.loss.requires_grad
        assert found.closure_loss is not None
        (gradient,) = torch.autograd.grad(found.closure_loss, weight, retain_graph=True)
        assert gradient == 2 / normalize
        found.closure_loss.detach().mul_(5)  # as a callback may, in `on_before_backward`
        assert found.loss == 6 / normalize
    loss = weight.exp()  # whose gradient is computed from its value
    step.step_output(loss).closure_loss.mul_(0.5).backward()  # type: ignore[union-attr]
    assert weight.grad == loss / 2


def test_gradients_begin_with_one() -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    for number in range(3):
        weight.grad = None
        loss = weight * 2
        # It should not change it in place: PyTorch asks not to.
        loss.register_hook(lambda gradient: gradient.mul_(7))  # type: ignore[no-untyped-call]
        step.backward(BoringModel(), loss)
        assert weight.grad == 14, number
    with pytest.raises(RuntimeError, match="does not require grad"):
        step.backward(BoringModel(), torch.tensor(1.0))
    with pytest.raises(RuntimeError, match="only for scalar outputs"):
        step.backward(BoringModel(), torch.ones(2, requires_grad=True))


@pytest.mark.parametrize("settings", [{}, {"average": "macro"}, {"ignore_index": 1}, {"top_k": 2}])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_classes_are_counted_as_before(settings: dict[str, Any], num_classes: int) -> None:
    random = torch.Generator().manual_seed(0)
    preds = torch.rand(40, num_classes, generator=random)
    target = torch.randint(num_classes, (40,), generator=random)
    states: list[list[Any]] = []
    for count in (step.COUNT, step.count_classes):
        options = {"average": "micro", "validate_args": False, **settings}
        metric = MulticlassAccuracy(num_classes, **options)
        with patch.object(stat_scores, "_multiclass_stat_scores_update", count):
            for part in (slice(30), slice(30, 40)):
                metric.update(preds[part], target[part])
        states.append([metric.tp, metric.fp, metric.tn, metric.fn])
    assert [state.tolist() for state in states[0]] == [state.tolist() for state in states[1]]
    assert [state.dtype for state in states[1]] == [torch.int64] * 4


@pytest.mark.parametrize("clip", [None, 0.001])
def test_gradients_are_clipped_as_before(clip: float | None, tmp_path: Path) -> None:
    norms = []
    for enabled in ("0", "1"):
        torch.manual_seed(0)
        model = BoringModel()
        with patch.dict(os.environ, LIGHTKEEL_FASTPATH=enabled), fastpath.active():
            fit(tmp_path, model, gradient_clip_val=clip, logger=False, max_steps=1)
        norms.append([p.grad.norm().item() for p in model.parameters() if p.grad is not None])
    assert norms[0] == norms[1]
    assert (sum(norm**2 for norm in norms[0]) ** 0.5 == pytest.approx(0.001, rel=1e-3)) is bool(
        clip
    )


@pytest.mark.parametrize(
    "values",
    [
        {"a": torch.tensor(1.5), "b": 2, "c": torch.tensor(3), "d": torch.tensor(0.1).double()},
        {"a": torch.tensor([1.5]), "b": torch.tensor(True), "c": {"d": torch.tensor(1.0)}},
        {"a": torch.tensor(float("nan")).bfloat16().abs() * 0 + 1, "b": "text", "c": None},
        {},
        [torch.tensor(1.0)],
        torch.tensor(2.0),
    ],
)
def test_rows_are_read_as_before(values: Any) -> None:
    found, expected = logged.numbers(values), convert_tensors_to_scalars(values)
    assert str(found) == str(expected)  # names, order, types


def test_what_is_no_number_is_refused_as_before() -> None:
    with pytest.raises(ValueError, match="does not contain a single element"):
        logged.numbers({"a": torch.ones(2), "b": torch.ones(())})
