"""Samplers and pruners that cannot work are found out before the first trial."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from lightkeel.errors.bad_input import InputError
from lightkeel.sweep.space import Choice, Range, Space

optuna = pytest.importorskip("optuna")
pytestmark = [
    pytest.mark.extras,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]
SPACE: Space = {
    "lr": Range(0.001, 0.1, log=True),
    "name": Choice(("SGD", "AdamW")),
    "momentum": Range(0, 9, when={"name": ("SGD",)}),
}


def try_out(sampler: Any = None, pruner: Any = None) -> None:
    from lightkeel.sweep import engines

    made = sampler or optuna.samplers.RandomSampler(seed=0)
    engines.try_out(SPACE, made, pruner or optuna.pruners.NopPruner())


@pytest.mark.parametrize("name", ["RandomSampler", "TPESampler", "NSGAIISampler", "QMCSampler"])
def test_samplers_that_work(name: str) -> None:
    try_out(getattr(optuna.samplers, name)(seed=0))


@pytest.mark.parametrize("name", ["MedianPruner", "HyperbandPruner", "WilcoxonPruner"])
def test_pruners_that_work(name: str) -> None:
    try_out(pruner=getattr(optuna.pruners, name)())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: {"sampler": optuna.samplers.CmaEsSampler(seed=0)},
            "sampler: CmaEsSampler refuses its settings or the space: …",
        ),
        (
            lambda: {"sampler": optuna.samplers.BruteForceSampler(seed=0)},
            "sampler: BruteForceSampler refuses its settings or the space: "
            "FloatDistribution.step must be given for BruteForceSampler …",
        ),
        (
            lambda: {"sampler": optuna.samplers.TPESampler(n_startup_trials="many")},
            "sampler: TPESampler refuses its settings or the space: '<' not supported between …",
        ),
        (
            lambda: {"pruner": optuna.pruners.PatientPruner({"name": "Nop"}, patience=0)},
            "pruner: PatientPruner refuses its settings or the space: 'dict' object has no …",
        ),
    ],
)
def test_those_that_do_not_are_refused(
    monkeypatch: pytest.MonkeyPatch, made: Callable[[], dict[str, Any]], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)  # as where it is not installed
    with pytest.raises(InputError) as caught:
        try_out(**made())
    assert str(caught.value).startswith(message.removesuffix("…"))
    assert message.endswith("…") or str(caught.value) == message
