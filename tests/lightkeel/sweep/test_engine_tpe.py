"""What a sweep searches with finds more than chance."""

from math import log10
from statistics import median

import pytest

pytest.importorskip("optuna")

from lightkeel.sweep import study as studies
from tests.lightkeel.sweep.test_engine_study import SPACE, claims, planned


@pytest.mark.extras
def test_tpe_beats_random() -> None:
    """The best of 25 trials, over 10 seeds."""
    studies.quiet()
    best: dict[str, list[float]] = {"TPESampler": [], "RandomSampler": []}
    for seed in range(10):
        for sampler, found in best.items():
            plan = planned(
                sampler=sampler,
                sampler_args={"n_startup_trials": 5} if sampler == "TPESampler" else {},
                space={name: SPACE[name] for name in ("x", "y")},
                name=f"{sampler}-{seed}",
                num_trials=25,
                seed=seed,
            )
            study = studies.SweepStudy(plan, "sqlite://", is_alone=True)
            for one in claims(study):
                study.complete(one, [(one.point["x"] - 2) ** 2 + log10(one.point["y"]) ** 2])
            found.append(study.study.best_value)
    tpe, random = best.values()
    said = f"TPE {median(tpe):.3f}, random {median(random):.3f}: {tpe}, {random}"
    assert sum(one < other for one, other in zip(tpe, random, strict=True)) >= 8, said
    assert median(tpe) < median(random) / 2, said
