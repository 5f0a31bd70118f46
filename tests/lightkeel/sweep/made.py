"""Studies made by hand, of which each number is known."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.trial import TrialState

from lightkeel.sweep.plan import Sweep
from lightkeel.sweep.space import Choice, Range, Space

LR, NAME = "model.optimizer.lr", "model.optimizer.name"
MOMENTUM, WIDTHS = "model.optimizer.momentum", "model.widths"
SPACE: Space = {
    LR: Range(1e-4, 0.1, log=True),
    NAME: Choice(("SGD", "AdamW")),
    MOMENTUM: Range(0.0, 0.99, when={NAME: ("SGD",)}),
    WIDTHS: Choice(([6], [6, 12])),
}
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    LR: FloatDistribution(1e-4, 0.1, log=True),
    NAME: CategoricalDistribution(("SGD", "AdamW")),
    MOMENTUM: FloatDistribution(0.0, 0.99),
    WIDTHS: CategoricalDistribution(("[6]", "[6, 12]")),
}
POINTS: list[dict[str, Any]] = [
    {LR: 0.001, NAME: "SGD", MOMENTUM: 0.5, WIDTHS: "[6]"},
    {LR: 0.0031622776601683794, NAME: "AdamW", WIDTHS: "[6, 12]"},
    {LR: 0.01, NAME: "SGD", MOMENTUM: 0.9, WIDTHS: "[6, 12]"},
    {LR: 0.1, NAME: "AdamW", WIDTHS: "[6]"},
]


def sweep(**changes: Any) -> Sweep:
    """Plan a sweep over the space above; what is not given is usual."""
    usual = Sweep(
        name="made",
        config=("tiny",),
        options=(),
        metric="val/acc",
        mode="max",
        space=SPACE,
        sampler="TPESampler",
        sampler_args={},
        pruner=None,
        pruner_args={},
        num_trials=4,
        max_time_s=None,
        seeds=1,
        seed=0,
    )
    return replace(usual, **changes)


def study(mode: str = "max", **options: Any) -> optuna.Study:
    """Make a study without trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction={"max": "maximize", "min": "minimize"}[mode], **options)


def add(
    to: optuna.Study,
    ticket: int,
    state: str = "COMPLETE",
    value: float | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    seconds: float = 60,
    ago: float = 0,
    **attributes: Any,
) -> None:
    """Add a trial of a ticket to a study; begun ``seconds`` before its end, ``ago``, or now."""
    chosen = (POINTS[ticket % 4] if state != "WAITING" else {}) if params is None else params
    known = TrialState[state]
    made = optuna.create_trial(
        state=known,
        value=value,
        params=dict(chosen),
        distributions={name: DISTRIBUTIONS[name] for name in chosen},
        user_attrs={"ticket": ticket, "runs": [f"tiny/{ticket:03}"], **attributes},
    )
    if known is not TrialState.WAITING:
        end = datetime.now() - timedelta(seconds=ago)
        made.datetime_start = end - timedelta(seconds=seconds)
        made.datetime_complete = end if known.is_finished() else None
    to.add_trial(made)
