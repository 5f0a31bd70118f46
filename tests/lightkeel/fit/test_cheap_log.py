"""``self.log`` as ``fit/fastpath/logged.py`` has it, against Lightning's: same values everywhere.

python -m tests.lightkeel.fit.test_cheap_log FOLDER     two processes: what both of them logged
"""

import contextlib
import copy
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MaxMetric, MeanMetric, MetricCollection

from lightkeel.fit import fastpath
from lightkeel.fit.fastpath import logged

Call = Callable[..., Any]  # of a module, a number and how many came before
Calls = Mapping[str, Call]

STEPS = ("training_step", "validation_step", "test_step")
IN_TRAINING = (
    *("on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad"),
    *("on_before_backward", "on_after_backward", "on_before_optimizer_step", "training_step"),
    *("on_train_batch_end", "on_train_epoch_end"),
)
IN_EVALUATION = tuple(
    hook.format(stage)
    for stage in ("validation", "test")
    for hook in ("on_{}_start", "on_{}_epoch_start", "on_{}_batch_start", "{}_step")
) + tuple(
    hook.format(stage)
    for stage in ("validation", "test")
    for hook in ("on_{}_batch_end", "on_{}_epoch_end")
)


class Logs(LightningModule):
    """Call what it is given in hooks, each time with another number of one element.

    Args:
        calls: By the names of hooks.
        automatic: Whether Lightning optimizes.
        num_loaders: Of validation and test.
    """

    def __init__(self, calls: Calls, automatic: bool = True, num_loaders: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        nn.init.constant_(self.layer.weight, 0.3)
        nn.init.zeros_(self.layer.bias)
        self.automatic_optimization = automatic
        self.num_loaders = num_loaders
        self.mean, self.other = MeanMetric(), MeanMetric()
        self.collection = MetricCollection([MaxMetric(), MeanMetric()], prefix="all/")
        self.calls = calls
        self.count = 0
        for hook in {*IN_TRAINING, *IN_EVALUATION} - {*STEPS}:
            if hook in calls:
                setattr(self, hook, lambda *args, hook=hook, **kwargs: self.called(hook))

    def called(self, hook: str) -> Tensor:
        self.count += 1
        value: Tensor = self.layer(torch.tensor([self.count / 7], device=self.device)).sum() ** 2
        if hook in self.calls:
            self.calls[hook](self, value, self.count)
        return value

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.called("training_step")
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.called("validation_step")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.called("test_step")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.zeros(10, 1)), 4)  # batches of 4, 4 and 2

    def val_dataloader(self) -> Any:
        return [DataLoader(TensorDataset(torch.zeros(7, 1)), 3) for _ in range(self.num_loaders)]

    test_dataloader = val_dataloader


class Seen(Callback):
    """Note what there is to read after each hook, or only what loggers are given."""

    def __init__(self, record: list[Any], watches: bool) -> None:
        self.record = record
        for hook in ("on_train_batch_end", "on_validation_batch_end", "on_test_batch_end"):
            if watches:
                setattr(self, hook, lambda trainer, *args, **kwargs: self.read(trainer))
        for hook in ("on_train_epoch_end", "on_validation_epoch_end", "on_train_end"):
            setattr(self, hook, lambda trainer, *args: self.read(trainer))

    def read(self, trainer: Trainer) -> None:
        places = ("progress_bar_metrics", "callback_metrics", "logged_metrics")
        self.record.append([plain(getattr(trainer, place)) for place in places])


class Rows(Logger):
    """Note rows as they come."""

    name = version = "rows"

    def __init__(self, record: list[Any]) -> None:
        super().__init__()
        self.record = record

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are no rows."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.record.append((step, plain(metrics)))


def plain(values: Any) -> list[Any]:
    """List names, types and numbers to the last bit, in their order."""
    return [
        (name, str(v.dtype), tuple(v.shape), v.requires_grad, float(v).hex())
        if isinstance(v, Tensor)
        else (name, str(type(v)), float(v).hex())
        for name, v in values.items()
    ]


def run(calls: Calls, watches: bool, folder: Path, **options: Any) -> list[Any]:
    """Fit, validate and test; return what was seen, or how it failed."""
    torch.manual_seed(0)
    record: list[Any] = []
    ours = {name: options.pop(name) for name in ("automatic", "num_loaders") if name in options}
    model = Logs(calls, **ours)
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "barebones": False,
        "callbacks": [Seen(record, watches), *options.pop("callbacks", [])],
        "default_root_dir": folder,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "log_every_n_steps": 2,
        "logger": Rows(record),
        "max_epochs": 2,
        "num_sanity_val_steps": 1,
    }
    trainer = Trainer(**{**settings, **options})
    try:
        trainer.fit(model)
        record.append([plain({**trainer.callback_metrics, **trainer.progress_bar_metrics})])
        record.extend(plain(values) for values in trainer.test(model, verbose=False))
        trainer.fit_loop.max_epochs = 3
        trainer.fit(model)  # once more with the results of before
    except Exception as error:  # noqa: BLE001 - any, to compare it
        record.append((type(error), str(error)))
    record.append([plain(getattr(trainer, f"{place}_metrics")) for place in ("callback", "logged")])
    record.append([p.tolist() for p in model.parameters()])
    return record


def each_hook(**arguments: Any) -> Calls:
    """Log one value in each hook, with these arguments."""

    def call(hook: str) -> Call:
        return lambda model, value, index: model.log(f"{hook}/value", value, **arguments)

    return {hook: call(hook) for hook in (*IN_TRAINING, *IN_EVALUATION)}


def each_step(call: Call) -> Calls:
    return dict.fromkeys(STEPS, call)


def log_twice(model: Logs, value: Tensor, index: int) -> None:
    for factor in (1, 2):
        model.log("value", value * factor, on_epoch=True)


def log_and_read(model: Logs, value: Tensor, index: int) -> None:
    model.log("value", value, on_epoch=True)
    known = model.trainer.callback_metrics
    if index > 1:
        model.log("read", sum(float(value) for value in known.values()))


def once_more(model: Logs, value: Tensor, index: int) -> None:
    """Log again with other arguments, from the fourth time on."""
    model.log("value", value, prog_bar=index > 3)


def in_two_kinds(model: Logs, value: Tensor, index: int) -> None:
    model.log("value", value if index % 2 else model.mean, on_epoch=True, on_step=False)


def with_collection(model: Logs, value: Tensor, index: int) -> None:
    model.collection.update(value)
    model.log_dict(model.collection, on_step=False, on_epoch=True)


def with_metric(model: Logs, value: Tensor, index: int) -> None:
    model.mean(value)
    model.log("mean", model.mean, on_step=True, on_epoch=True, prog_bar=True)
    model.other.update(value)
    model.log("other", model.other, on_step=False, on_epoch=True)


def logs(value: Callable[[Tensor, int], Any], **arguments: Any) -> Calls:
    return each_step(lambda model, v, index: model.log("value", value(v, index), **arguments))


def wide(values: dict[str, Any]) -> Call:
    return lambda model, value, index: model.log_dict(
        {name: value * factor for name, factor in values.items()}, prog_bar=True
    )


CASES: dict[str, Calls] = {
    "defaults": each_hook(),
    "epoch": each_hook(on_step=False, on_epoch=True),
    "step": logs(lambda v, i: v, on_step=True, on_epoch=False),
    "both": logs(lambda v, i: v, on_step=True, on_epoch=True, prog_bar=True),
    "bar": each_hook(prog_bar=True),
    "no logger": logs(lambda v, i: v, logger=False, on_epoch=True),
    "logger": logs(lambda v, i: v, logger=True),
    "neither": logs(lambda v, i: v, on_step=False, on_epoch=False),
    **{
        f"reduced by {getattr(fx, '__name__', fx)} {type(fx).__name__}": logs(
            lambda v, i: v, reduce_fx=fx, on_step=True, on_epoch=True
        )
        for fx in ("mean", "sum", "min", "max", "avg", torch.max, torch.mean, min, sum, "prod", len)
    },
    "batch size": logs(lambda v, i: v, batch_size=5, on_epoch=True),
    "changing size": each_step(lambda m, v, i: m.log("value", v, on_epoch=True, batch_size=i)),
    "size now and then": each_step(
        lambda m, v, i: m.log("value", v, on_epoch=True, batch_size=3 if i % 2 else None)
    ),
    "size of nothing": logs(lambda v, i: v, batch_size=0, on_epoch=True),
    "graph": logs(lambda v, i: v, enable_graph=True, on_epoch=True),
    "float": logs(lambda v, i: 0.1 * i, on_epoch=True),
    "int": logs(lambda v, i: i, on_epoch=True),
    "bool": logs(lambda v, i: i % 2 == 0, on_epoch=True),
    "numpy": logs(lambda v, i: np.float32(0.1 * i), on_epoch=True),
    "numpy 64": logs(lambda v, i: np.float64(0.1 * i), on_epoch=True),
    "numpy int": logs(lambda v, i: np.int64(i), on_epoch=True),
    "one element": logs(lambda v, i: v[None], on_epoch=True),
    "two elements": logs(lambda v, i: v.repeat(2) if i > 4 else v),
    "float64": logs(lambda v, i: v.double() / 3, on_step=True, on_epoch=True),
    "bfloat16": logs(lambda v, i: v.bfloat16(), on_step=True, on_epoch=True),
    "int tensor": logs(lambda v, i: torch.tensor(i), on_step=True, on_epoch=True),
    "changing dtype": logs(lambda v, i: v.double() if i % 3 else v.int(), on_epoch=True),
    "infinite": logs(lambda v, i: v / 0, on_epoch=True, reduce_fx="min"),
    "parameter": each_step(lambda m, v, i: m.log("value", m.layer.bias, on_epoch=True)),
    "text": logs(lambda v, i: v if i < 5 else "text"),
    "nested": logs(lambda v, i: v if i < 5 else {"a": {"b": v}}),
    "dictionary": logs(lambda v, i: v if i < 5 else {"a": v}),
    "nothing": logs(lambda v, i: v if i < 5 else None),
    "other arguments": each_step(once_more),
    "twice": each_step(log_twice),
    "two kinds": each_step(in_two_kinds),
    "metric": each_step(with_metric),
    "collection": each_step(with_collection),
    "a metric that nobody holds": logs(lambda v, i: MeanMetric(), on_epoch=True),
    "dictionaries": each_step(wide({"a": 1, "b/c": 2.5})),
    "reserved name": each_step(lambda m, v, i: m.log("a/dataloader_idx_0", v)),
    "wrong hook": {"on_train_start": lambda m, v, i: m.log("value", v, on_step=True)},
    "no hook": {"training_step": lambda m, v, i: outside(m, v)},
    "every other time": each_step(lambda m, v, i: m.log("v", v) if i % 2 else None),
    "one name in two hooks": {
        hook: lambda m, v, i: m.log("value", v, on_epoch=True)
        for hook in ("training_step", "on_train_batch_end", "validation_step")
    },
    "reads within": each_step(log_and_read),
    "rank": logs(lambda v, i: v, rank_zero_only=True, sync_dist=True, on_epoch=True),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "manual": {"automatic": False},
    "loaders": {"num_loaders": 2},
    "accumulated": {"accumulate_grad_batches": 2},
    "no loggers": {"logger": False},
    "validation within": {"val_check_interval": 1, "limit_val_batches": 2},
    "dry": {"fast_dev_run": 2},
    "double": {"precision": "64-true"},
    "mixed": {"precision": "bf16-mixed"},
    "barebones": {
        "barebones": True,
        **dict.fromkeys(("logger", "log_every_n_steps", "num_sanity_val_steps"), None),
    },
}


def outside(model: Logs, value: Tensor) -> None:
    hook, model._current_fx_name = model._current_fx_name, None
    model.log("value", value)
    model._current_fx_name = hook


def compare(calls: Calls, watches: bool, folder: Path, **options: Any) -> list[Any]:
    """Check that both ways leave the same behind, and return that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = run(calls, watches, folder, **options)
        with fastpath.active():
            assert fastpath.is_active()
            found = run(calls, watches, folder, **options)
    assert not fastpath.is_active()
    assert found == expected
    return expected


SLOW = pytest.mark.slow


# Each case in one of the two ways, the other among the slow tests.
@pytest.mark.parametrize(
    ("case", "watches"),
    [
        pytest.param(
            case,
            watches,
            id=f"{case}, {'' if watches else 'un'}watched",
            marks=[SLOW] * (watches == bool(number % 2)),
        )
        for number, case in enumerate(CASES)
        for watches in (True, False)
    ],
)
def test_the_same_values_and_errors(case: str, watches: bool, tmp_path: Path) -> None:
    compare(CASES[case], watches, tmp_path)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    "case", ["both", *(pytest.param(case, marks=SLOW) for case in ("metric", "float", "defaults"))]
)
def test_the_same_under_other_options(case: str, option: str, tmp_path: Path) -> None:
    options = dict(OPTIONS[option])
    if options.get("barebones"):
        options["callbacks"] = []
    compare(CASES[case], False, tmp_path, **options)


@pytest.mark.parametrize("apart", [True, False])
def test_the_same_name_with_two_loaders(apart: bool, tmp_path: Path) -> None:
    def call(model: Logs, value: Tensor, index: int) -> None:
        model.log("value", value, add_dataloader_idx=apart, on_epoch=True)

    seen = compare({"validation_step": call, "test_step": call}, True, tmp_path, num_loaders=2)
    assert any(MisconfigurationException in entry for entry in seen) is not apart


def test_a_size_that_may_not_be_left_out(tmp_path: Path) -> None:
    class Takes(Logs):
        def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
            next(dataloader_iter)
            return super().training_step(None, 0)

    def call(model: Logs, value: Tensor, index: int) -> None:
        model.log("value", value, on_epoch=True, batch_size=4 if index < 4 else None)

    with patch.object(sys.modules[__name__], "Logs", Takes):
        seen = compare({"training_step": call}, False, tmp_path)
    assert "`self.log(..., batch_size=...)` should be provided" in str(seen)


def test_a_hook_within_a_hook(tmp_path: Path) -> None:
    """Lightning forgets what the first step of an epoch has logged before such a hook."""

    class After(Logs):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            super().training_step(batch, batch_idx)
            self.log("after", float(self.count), on_epoch=True)

    calls = {
        hook: lambda model, value, index, hook=hook: model.log(hook, value, on_epoch=True)
        for hook in ("training_step", "on_before_backward")
    }
    with patch.object(sys.modules[__name__], "Logs", After):
        compare(calls, True, tmp_path, automatic=False, max_epochs=3)


def test_results_that_were_replaced(tmp_path: Path) -> None:
    """As ``ExactResume`` does when a run is resumed."""

    def call(model: Logs, value: Tensor, index: int) -> None:
        model.log("value", value, on_step=True, on_epoch=True)
        results: Any = model.trainer._results
        if index == 3:
            results.update({key: copy.deepcopy(result) for key, result in results.items()})

    compare({"training_step": call}, True, tmp_path)


def test_callbacks_log_too(tmp_path: Path) -> None:
    class Logging(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
            module.log("mine", module.count / 3, on_epoch=True, prog_bar=True)

        def on_validation_epoch_end(self, trainer: Trainer, module: Any) -> None:
            module.log("theirs", float(module.count))

    seen = compare({}, True, tmp_path, callbacks=[Logging()])
    assert "theirs" in str(seen)


def test_a_log_of_ones_own_is_called(tmp_path: Path) -> None:
    names = []

    class Own(Logs):
        def log(self, name: str, *args: Any, **kwargs: Any) -> None:
            names.append(name)
            super().log(f"own/{name}", *args, **kwargs)

    with fastpath.active(), patch.object(sys.modules[__name__], "Logs", Own):
        assert "own/value_step" in str(run(CASES["both"], False, tmp_path))
    # Of training and validation, with a batch to begin with, test, and one more epoch.
    assert len(names) == (6 + 1 + 6) + 3 + (3 + 1 + 3)


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """Note the names of what Lightning's own ``log`` is asked for."""
    names: list[str] = []
    own = logged.LOG

    def log(self: Any, name: str, *args: Any, **kwargs: Any) -> None:
        names.append(name)
        own(self, name, *args, **kwargs)

    with patch.object(logged, "LOG", log), fastpath.active():
        yield names


@pytest.mark.parametrize(
    "case",
    [
        *("both", "step", "epoch", "float", "int", "bool", "float64", "bfloat16", "one element"),
        *("metric", "collection", "reduced by max str", "changing size", "graph", "twice"),
    ],
)
def test_lightning_is_asked_once_an_epoch(case: str, tmp_path: Path) -> None:
    calls = {"training_step": CASES[case]["training_step"]}
    with counted() as names:
        run(calls, False, tmp_path, max_epochs=4, limit_val_batches=0, limit_test_batches=0)
    # Once to register, and as the first of each epoch, which resets the results of the hook.
    assert all(names.count(name) <= 5 for name in names), names
    assert names


def test_a_value_costs_little(tmp_path: Path) -> None:
    """At most 30 microseconds where nothing else runs; here a sixth of what Lightning's takes."""
    spent: dict[bool, list[float]] = {True: [], False: []}

    def call(model: Logs, value: Tensor, index: int) -> None:
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(20):
                model.log("value", value, on_step=True, on_epoch=True, prog_bar=True)
            spent[fastpath.is_active()].append(time.perf_counter() - began)

    calls = {"training_step": call}
    for _ in range(2):
        run(calls, False, tmp_path)
        with fastpath.active():
            run(calls, False, tmp_path)
    assert min(spent[True]) < min(spent[False]) / 6


@pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval")
def test_nothing_waits_for_the_device(gpu: Any, tmp_path: Path) -> None:
    if gpu is None:
        pytest.skip("a real GPU does not tell when the host waits; the pretended one does")

    def call(model: Logs, value: Tensor, index: int) -> None:
        # Which copies from the host: the pretended GPU does not see that as waiting.
        copies = patch.object(torch, "tensor", side_effect=AssertionError)
        with copies if index > 1 else contextlib.nullcontext():
            model.log("loss", value, on_step=True, on_epoch=True, prog_bar=True)
            model.log("float", 0.5, on_step=True, on_epoch=True, prog_bar=True)
            model.log("max", value * 2, on_step=False, on_epoch=True, reduce_fx="max")
        waits.append(len(gpu.waits))

    waits: list[int] = []
    options: dict[str, Any] = {"limit_val_batches": 0, "limit_test_batches": 0, "max_epochs": 1}
    options |= {"accelerator": "gpu", "devices": 1, "log_every_n_steps": 100}
    with fastpath.active():
        run({"training_step": call}, False, tmp_path, **options)
    # The first registers; the third step comes after two that have neither row nor bar.
    assert waits[2] == waits[1]


def test_a_row_is_read_at_once(gpu: Any) -> None:
    if gpu is None:
        pytest.skip("a real GPU does not tell when the host waits; the pretended one does")
    values: dict[str, Any] = {name: torch.ones((), device="cuda") for name in "abcd"}
    before = len(gpu.waits)
    assert logged.numbers({**values, "e": 2, "f": 0.1}) == {
        **dict.fromkeys("abcd", 1.0),
        "e": 2,
        "f": 0.1,
    }
    assert len(gpu.waits) == before + 1


def together(folder: Path) -> None:
    """Log on two devices, as Lightning's own and cheaply, and write what was seen."""
    torch.set_num_threads(1)

    def call(model: Logs, value: Tensor, index: int) -> None:
        value = value.detach() * (1 + model.global_rank)
        for fx in ("mean", "sum", "max"):
            model.log(fx, value, sync_dist=True, reduce_fx=fx, on_step=True, on_epoch=True)
        model.log("alone", value, on_step=True, on_epoch=True)
        model.log("first", value, rank_zero_only=True, on_epoch=True)
        model.mean.update(value)
        model.log("metric", model.mean, on_step=False, on_epoch=True)

    options: dict[str, Any] = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    seen = compare(each_step(call), True, folder, **options)
    assert "Error" not in str(seen[-3]), seen[-3]
    (folder / os.environ.get("LOCAL_RANK", "0")).write_text(str(seen))


@pytest.mark.slow
def test_the_same_on_two_devices(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.lightkeel.fit.test_cheap_log", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / rank).read_text() for rank in ("0", "1"))
    assert first != second  # what was not reduced


if __name__ == "__main__":
    together(Path(sys.argv[1]))
