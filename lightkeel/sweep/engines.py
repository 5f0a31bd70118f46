"""Find out before the first trial whether a sampler and a pruner can do what they are for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna

from ..errors.bad_input import InputError
from .space import Space, suggest

NUM_TRIED = 12  # the first ten are drawn at random by most samplers
# What Optuna raises where a class does not take its arguments, or the space.
REFUSALS = (ValueError, TypeError, AttributeError, RuntimeError, ImportError)


def try_out(
    space: Space, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner
) -> None:
    """Have a sampler and a pruner work through some trials with made-up values.

    Args:
        space: The space of the sweep.
        sampler: Is used, so not to be used again.
        pruner: The pruner.

    Raises:
        InputError: One of them refuses the space or its arguments, or lacks a package.
    """
    study: Any = optuna.create_study(sampler=sampler, pruner=pruner)
    study.stop = lambda: None  # what a sampler calls that has tried all points
    for number in range(NUM_TRIED):
        with _said_of("sampler", sampler):
            trial = study.ask()
            suggest(space, trial)
        with _said_of("pruner", pruner):
            for step in range(3):
                trial.report(float(number + step), step)
                trial.should_prune()
        study.tell(trial, float(number))


@contextmanager
def _said_of(key: str, engine: object) -> Iterator[None]:
    name = type(engine).__name__
    try:
        yield
    except REFUSALS as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{key}: {name} refuses its settings or the space: {text}") from None
