from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.optim import SGD, Optimizer

from lightkeel.models import optimizers as optim
from lightkeel.models.muon import MuonSGD
from src.callbacks import GradientAccumulation
from tests.lightkeel.fitting import Given, Line, Stream, fit

SGD_1 = {"name": "SGD", "lr": 1.0}

MOMENTUM = {"name": "SGD", "lr": 1.0, "momentum": 0.9}

# Torch grows: what it has beside these is asked of it.
OPTIMIZERS = ", ".join(
    sorted(
        name
        for name, value in {**vars(torch.optim), "MuonSGD": MuonSGD}.items()
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    )
)


class Rates(Callback):
    """Record the learning rate of each group at each step."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def rates(
    folder: Path,
    scheduler: dict[str, Any],
    num_batches: int,
    *callbacks: Callback,
    optimizer: dict[str, Any] | None = None,
    bias: bool = False,
    **options: Any,
) -> list[list[float]]:
    """Train on inputs of zero, so that a weight alone never changes, and its loss stays at 1."""
    model = Line(bias=bias, optimizer=optimizer or SGD_1, lr_scheduler=scheduler)
    data = Given(torch.zeros(num_batches, 1), torch.ones(num_batches), batch_size=1)
    recorded = Rates()
    fit(folder, model, data, *callbacks, recorded, **options)
    return recorded.rates


# Cosine from 1 to 0 in n steps: (1 + cos(pi * i / n)) / 2.
COSINE_6 = [1, 0.9330127019, 0.75, 0.5, 0.25, 0.0669872981]
# From 1/25 up by a half cosine to step 0.3 * 10 - 1 = 2, then down to 1/250,000 at step 9.
ONE_CYCLE_10 = [0.04, 0.52, 1.0, 0.9504846320, 0.8117456539, 0.6112620219, 0.3887419781]
ONE_CYCLE_10 += [0.1882583461, 0.0495193680, 0.000004]
FIFTHS = [1, 0.8, 0.6, 0.4, 0.2]
SIXTHS = [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
EIGHTHS = [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
LINEAR = {"name": "PolynomialLR"}  # to zero at the end of the run


@pytest.mark.parametrize(
    ("scheduler", "num_batches", "options", "expected"),
    [
        ({"name": "OneCycleLR", "max_lr": 1.0}, 10, {}, ONE_CYCLE_10),
        ({"name": "OneCycleLR"}, 10, {}, ONE_CYCLE_10),  # the optimizer's own rate is 1
        ({"name": "OneCycleLR", "max_lr": 0.5}, 10, {}, [rate / 2 for rate in ONE_CYCLE_10]),
        ({"name": "OneCycleLR", "max_lr": 1.0}, 5, {"max_epochs": 2}, ONE_CYCLE_10),
        ({"name": "OneCycleLR", "max_lr": 1.0, "total_steps": 10}, 5, {}, ONE_CYCLE_10[:5]),
        ({"name": "CosineAnnealingLR"}, 6, {}, COSINE_6),
        ({"name": "CosineAnnealingLR", "warmup_steps": 2}, 8, {}, [1 / 3, 2 / 3, *COSINE_6]),
        ({"name": "CosineAnnealingLR", "warmup_fraction": 0.25}, 8, {}, [1 / 3, 2 / 3, *COSINE_6]),
        (
            {"name": "CosineAnnealingLR", "interval": "epoch"},
            2,
            {"max_epochs": 4},
            [1, 1, 0.8535533906, 0.8535533906, 0.5, 0.5, 0.1464466094, 0.1464466094],
        ),
        ({"name": "CosineAnnealingLR", "T_max": 2}, 2, {"max_epochs": 2}, [1, 1, 0.5, 0.5]),
        (
            {"name": "CosineAnnealingLR", "T_max": 2, "interval": "step", "eta_min": 0.5},
            2,
            {},
            [1, 0.75],
        ),
        (
            {"name": "StepLR", "step_size": 1},
            3,
            {"max_epochs": 2},
            [1, 1, 1, 0.1, 0.1, 0.1],
        ),
        (
            {"name": "StepLR", "step_size": 2, "gamma": 0.5, "interval": "step"},
            4,
            {},
            [1, 1, 0.5, 0.5],
        ),
        (
            {"name": "ExponentialLR", "gamma": 0.5, "warmup_steps": 1},
            1,
            {"max_epochs": 4},
            [0.5, 1, 0.5, 0.25],
        ),
        (LINEAR, 5, {}, FIFTHS),
        (LINEAR, 5, {"max_epochs": 2, "accumulate_grad_batches": 2}, SIXTHS),
        (LINEAR, 7, {"limit_train_batches": 5}, FIFTHS),
        (LINEAR, 4, {"max_steps": 5}, FIFTHS),
        (LINEAR, 4, {"max_steps": 5, "max_epochs": 3}, FIFTHS),
        (LINEAR, 3, {"max_steps": 50, "max_epochs": 2}, SIXTHS),
        ({**LINEAR, "frequency": 2}, 10, {}, [x for x in FIFTHS for _ in range(2)]),
        ({**LINEAR, "interval": "epoch"}, 1, {"max_epochs": 5}, FIFTHS),
        ({"name": "torch.optim.lr_scheduler.PolynomialLR"}, 5, {}, FIFTHS),
        (
            {"name": "ReduceLROnPlateau", "monitor": "train/loss", "patience": 0, "factor": 0.5},
            2,
            {"max_epochs": 4},
            [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25],
        ),
        (
            {"name": "ReduceLROnPlateau", "patience": 0, "factor": 0.1},
            1,
            {"max_epochs": 3, "limit_val_batches": 1},
            [1, 1, 0.1],
        ),
    ],
)
def test_each_step_has_the_learning_rate_of_the_schedule(
    tmp_path: Path,
    scheduler: dict[str, Any],
    num_batches: int,
    options: dict[str, Any],
    expected: list[float],
) -> None:
    found = rates(tmp_path, scheduler, num_batches, **options)
    assert [rate for (rate,) in found] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("accumulation", "num_batches", "max_epochs", "expected"),
    [
        ({"batches": 2}, 5, 2, SIXTHS),  # three steps an epoch, the last of one batch
        ({"schedule": {1: 2}}, 4, 3, EIGHTHS),  # 4 + 2 + 2 steps
        ({"effective_batch_size": 4}, 18, 1, FIFTHS),
    ],
)
def test_run_length_counts_accumulation(
    tmp_path: Path,
    accumulation: dict[str, Any],
    num_batches: int,
    max_epochs: int,
    expected: list[float],
) -> None:
    callback = GradientAccumulation(**accumulation)
    found = rates(tmp_path, LINEAR, num_batches, callback, max_epochs=max_epochs)
    assert [rate for (rate,) in found] == pytest.approx(expected)


@pytest.mark.parametrize("peak", [{"max_lr": 1.0}, {}])
def test_multiplied_groups_keep_their_ratio_under_one_cycle(
    tmp_path: Path, peak: dict[str, float]
) -> None:
    found = rates(
        tmp_path,
        {"name": "OneCycleLR", **peak},
        10,
        optimizer={**SGD_1, "lr_multipliers": {"*.bias": 0.5}},
        bias=True,
    )
    weight, bias = zip(*found, strict=True)
    assert weight == pytest.approx(ONE_CYCLE_10, abs=1e-9)
    assert bias == pytest.approx([0.5 * rate for rate in ONE_CYCLE_10], abs=1e-9)


def test_no_schedule_keeps_the_rate(tmp_path: Path) -> None:
    class Plain(Line):
        def configure_optimizers(self) -> Any:
            found = super().configure_optimizers()
            assert type(found) is SGD
            return found

    recorded = Rates()
    data = Given(torch.zeros(3, 1), torch.ones(3), batch_size=1)
    fit(tmp_path, Plain(optimizer={"name": "SGD", "lr": 0.25}), data, recorded)
    assert recorded.rates == [[0.25, 0.25]] * 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)


def groups(settings: dict[str, Any], net: nn.Module | None = None) -> list[tuple[Any, ...]]:
    net = net or Net()
    names = {id(p): name for name, p in net.named_parameters()}
    built = optim.build_optimizer(net, settings)
    return [
        (g["name"], g["lr"], g["weight_decay"], [names[id(p)] for p in g["params"]])
        for g in built.param_groups
    ]


MATRICES = ["conv.weight", "head.weight"]
VECTORS = ["conv.bias", "norm.weight", "norm.bias", "head.bias"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [("decay", 0.1, 0.01, MATRICES), ("no_decay", 0.1, 0.0, VECTORS)]),
        (
            {"decay_bias_and_norm": True},
            [("decay", 0.1, 0.01, [n for n, _ in Net().named_parameters()])],
        ),
        (
            {"lr_multipliers": {"head.*": 10, "*.bias": 0}},
            [
                ("decay", 0.1, 0.01, ["conv.weight"]),
                ("*.bias/no_decay", 0.0, 0.0, ["conv.bias", "norm.bias"]),
                ("no_decay", 0.1, 0.0, ["norm.weight"]),
                ("head.*/decay", 1.0, 0.01, ["head.weight"]),
                ("head.*/no_decay", 1.0, 0.0, ["head.bias"]),
            ],
        ),
        (
            {"lr_multipliers": {"*.bias": 0, "head.*": 10}},  # the first match wins
            [
                ("decay", 0.1, 0.01, ["conv.weight"]),
                ("*.bias/no_decay", 0.0, 0.0, ["conv.bias", "norm.bias", "head.bias"]),
                ("no_decay", 0.1, 0.0, ["norm.weight"]),
                ("head.*/decay", 1.0, 0.01, ["head.weight"]),
            ],
        ),
    ],
)
def test_parameter_groups(settings: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    assert groups({"name": "AdamW", "lr": 0.1, "weight_decay": 0.01, **settings}) == expected


def test_frozen_parameters_belong_to_no_group() -> None:
    net = Net()
    net.conv.requires_grad_(False)
    found = groups({"name": "SGD", "lr": 0.1, "weight_decay": 0.5}, net)
    assert found == [
        ("no_decay", 0.1, 0.0, ["norm.weight", "norm.bias", "head.bias"]),
        ("decay", 0.1, 0.5, ["head.weight"]),
    ]


def test_name_may_be_a_path_to_any_class() -> None:
    found = optim.build_optimizer(Net(), {"name": f"{__name__}.Renamed", "lr": 0.3, "momentum": 1})
    assert type(found) is Renamed
    assert [group["momentum"] for group in found.param_groups] == [1, 1]
    with pytest.raises(ValueError, match="no such option"):
        optim.check_optimizers({"name": "torch.optim.SGD", "momentun": 0.9})


class Renamed(SGD):
    """Of another package, as far as ``lightkeel.models.optimizers`` can tell."""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "optimizer.name: missing. Give one of torch.optim, such as AdamW."),
        ({"name": 3}, "optimizer.name: missing. Give one of torch.optim, such as AdamW."),
        (
            {"name": "AdanW"},
            "optimizer.name: torch.optim has no `AdanW`. Did you mean `AdamW`?",
        ),
        (
            {"name": "Xyzzy"},
            f"optimizer.name: torch.optim has no `Xyzzy`. Available: {OPTIMIZERS}.",
        ),
        (
            {"name": "nowhere.SGD"},
            "optimizer.name: cannot import `nowhere.SGD` (No module named 'nowhere').",
        ),
        (
            {"name": "torch.optim.Sdg"},
            "optimizer.name: cannot import `torch.optim.Sdg` "
            "(module 'torch.optim' has no attribute 'Sdg').",
        ),
        ({"name": "torch.nn.Linear"}, "optimizer.name: `torch.nn.Linear` is no Optimizer."),
        (
            {"name": "SGD", "momentun": 0.9},
            "optimizer.momentun: SGD has no such option. Did you mean `momentum`?",
        ),
        (
            {"name": "Rprop", "q": 1},
            "optimizer.q: Rprop has no such option. Available: capturable, "
            "decay_bias_and_norm, differentiable, etas, foreach, lr, lr_multipliers, maximize, "
            "name, step_sizes.",
        ),
        (
            {"name": "SGD", "lr": -1.0},
            "optimizer: SGD refuses its settings: Invalid learning rate: -1.0",
        ),
        (
            {"name": "SGD", "lr_multipliers": {"a.*": -1}},
            "optimizer.lr_multipliers.a.*: -1 is not a number >= 0.",
        ),
        (
            {"name": "SGD", "lr_multipliers": 2},
            "optimizer.lr_multipliers: 2 maps no names to factors.",
        ),
        (
            {"name": "SGD", "lr_multipliers": {"a.*": "2"}},
            "optimizer.lr_multipliers.a.*: 2 is not a number >= 0.",
        ),
    ],
)
def test_optimizers_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^optimizer") as caught:
        optim.check_optimizers(settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("multipliers", "pattern"),
    [({"hed.*": 2}, "hed.*"), ({"*": 2, "head.*": 3}, "head.*")],
)
def test_pattern_that_changes_nothing_is_refused(
    multipliers: dict[str, float], pattern: str
) -> None:
    with pytest.raises(ValueError, match="lr_multipliers") as caught:
        optim.build_optimizer(Net(), {**SGD_1, "lr_multipliers": multipliers})
    assert str(caught.value) == (
        f"optimizer.lr_multipliers.{pattern}: no parameter has such a name that no pattern "
        "before it matches."
    )


STEP = {"name": "StepLR", "step_size": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"interval": "step"},
            "lr_scheduler.name: missing. Give one of torch.optim.lr_scheduler, such as "
            "CosineAnnealingLR.",
        ),
        (
            {"name": "OneCycle", "max_lr": 1},
            "lr_scheduler.name: torch.optim.lr_scheduler has no `OneCycle`. "
            "Did you mean `OneCycleLR`?",
        ),
        ({"name": "torch.optim.SGD"}, "lr_scheduler.name: `torch.optim.SGD` is no LRScheduler."),
        ({"name": "StepLR"}, "lr_scheduler.step_size: StepLR needs it."),
        (
            {**STEP, "gama": 0.5},
            "lr_scheduler.gama: StepLR has no such option. Did you mean `gamma`?",
        ),
        (
            {**STEP, "interval": "batch"},
            "lr_scheduler.interval: 'batch' is neither `step` nor `epoch`.",
        ),
        ({**STEP, "frequency": 0}, "lr_scheduler.frequency: 0 is no whole number >= 1."),
        (
            {**STEP, "warmup_steps": 1, "warmup_fraction": 0.1},
            "lr_scheduler: give `warmup_steps` or `warmup_fraction`, not both.",
        ),
        ({**STEP, "warmup_fraction": 1}, "lr_scheduler.warmup_fraction: 1 is not in [0, 1)."),
        ({**STEP, "warmup_fraction": -0.1}, "lr_scheduler.warmup_fraction: -0.1 is not in [0, 1)."),
        ({**STEP, "warmup_fraction": nan}, "lr_scheduler.warmup_fraction: nan is not in [0, 1)."),
        ({**STEP, "frequency": 1.5}, "lr_scheduler.frequency: 1.5 is no whole number >= 1."),
        ({**STEP, "warmup_steps": -1}, "lr_scheduler.warmup_steps: -1 is no whole number >= 0."),
        ({**STEP, "warmup_fraction": "a"}, "lr_scheduler.warmup_fraction: 'a' is not in [0, 1)."),
        (
            {**STEP, "monitor": "val/loss"},
            "lr_scheduler.monitor: StepLR makes no use of it. Leave it out.",
        ),
        (
            {"name": "ReduceLROnPlateau", "warmup_steps": 5},
            "lr_scheduler.warmup_steps: ReduceLROnPlateau makes no use of it. Leave it out.",
        ),
        (
            {"name": "ReduceLROnPlateau", "factor": inf},
            "lr_scheduler: ReduceLROnPlateau refuses its settings: Factor should be < 1.0.",
        ),
    ],
)
def test_schedules_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^lr_scheduler") as caught:
        optim.check_optimizers(MOMENTUM, settings)
    assert str(caught.value) == message


def test_any_share_of_a_run_may_rise() -> None:
    optim.check_optimizers(MOMENTUM, {"name": "OneCycleLR", "max_lr": 1.0, "pct_start": 0.1})


NO_LENGTH = "cannot be derived, the run has no known length."
LENGTH = "set trainer.max_epochs (trainer.max_steps for a stream)."


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (
            {"name": "CosineAnnealingLR", "interval": "epoch"},
            {"max_steps": 3},
            f"lr_scheduler.T_max: {NO_LENGTH} Give it, or {LENGTH}",
        ),
        (
            {**STEP, "warmup_fraction": 0.5},
            {"max_steps": 3},
            f"lr_scheduler.warmup_fraction: {NO_LENGTH} Give warmup_steps, or {LENGTH}",
        ),
        (
            {"name": "OneCycleLR", "max_lr": 1.0, "warmup_steps": 4},
            {},
            "lr_scheduler.warmup_steps: 4 of warm-up leave nothing of a run of 4 updates of the "
            "schedule. Use fewer than 4.",
        ),
        (
            {"name": "torch.optim.lr_scheduler.ReduceLROnPlateau"},
            {"limit_val_batches": 0},
            "lr_scheduler.monitor: `val/loss` is never logged without validation.",
        ),
    ],
)
def test_schedules_that_do_not_fit_the_run(
    tmp_path: Path, settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r"^lr_scheduler") as caught:
        rates(tmp_path, settings, 4, **options)
    assert str(caught.value) == message


def test_stream_has_the_steps_that_are_given(tmp_path: Path) -> None:
    cosine = {"name": "CosineAnnealingLR"}
    model = Line(optimizer=SGD_1, lr_scheduler=cosine)
    with pytest.raises(ValueError, match="T_max: cannot be derived"):
        fit(tmp_path, model, Stream())
    recorded, model = Rates(), Line(optimizer=SGD_1, lr_scheduler=cosine)
    fit(tmp_path, model, Stream(), recorded, max_epochs=2, max_steps=6)
    assert [rate for (rate, *_) in recorded.rates] == pytest.approx(COSINE_6)


def test_what_only_a_gpu_has_is_tried_on_the_device_of_the_module() -> None:
    settings = {"name": "AdamW", "lr": 0.1, "capturable": True}
    optim.check_optimizers(settings)  # the model may go to a GPU
    refused = "optimizer: AdamW refuses its settings on cpu: If capturable=True"
    with pytest.raises(ValueError, match=refused):
        optim.build_optimizer(nn.Linear(1, 1), settings)


def test_errors_of_the_device_are_no_fault_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")

    # What PyTorch asks CUDA in a step, in versions to 2.12 and later.
    for name in ("_cuda_graph_capture_health_check", "_accelerator_graph_capture_health_check"):
        monkeypatch.setattr(Optimizer, name, fail, raising=False)
    with pytest.raises(RuntimeError, match="busy or unavailable"):
        optim.check_optimizers({"name": "AdamW", "lr": 0.1})
