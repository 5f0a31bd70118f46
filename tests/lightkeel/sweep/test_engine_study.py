"""Tickets: each is claimed once, retried when it was interrupted, and draws the same point."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lightkeel.errors.bad_input import InputError
from lightkeel.sweep.plan import Sweep
from lightkeel.sweep.space import Choice, Range
from src.sweep import main
from tests.lightkeel.commands import fails
from tests.lightkeel.sweep.test_plan import TINY_CONFIG

pytestmark = pytest.mark.extras
pytest.importorskip("optuna", reason="needs optuna")

from optuna.exceptions import UpdateFinishedTrialError  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from lightkeel.sweep import database, study as studies, supervise  # noqa: E402
from lightkeel.sweep.study import Claimed, SweepStudy  # noqa: E402

SPACE = {"x": Range(-5.0, 5.0), "y": Range(0.01, 10.0, log=True), "z": Choice(("a", "b"))}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    studies.quiet()


def planned(**settings: Any) -> Sweep:
    plan: dict[str, Any] = {"name": "tried", "config": ("tiny",), "options": (), "space": SPACE}
    plan |= {"metric": "val/loss", "mode": "min", "seeds": 1, "seed": 0, "num_trials": 6}
    plan |= {"sampler": "RandomSampler", "sampler_args": {}, "pruner": None, "pruner_args": {}}
    return Sweep(**{**plan, "max_time_s": None, **settings})


def opened(folder: Path, is_alone: bool = True, **settings: Any) -> SweepStudy:
    return SweepStudy(planned(**settings), database.file_address(folder), is_alone)


def claims(study: SweepStudy) -> Iterator[Claimed]:
    while claimed := study.claim():
        yield claimed


def cost(point: dict[str, Any]) -> float:
    return float((point["x"] - 2) ** 2 + abs(point.get("y", 1.0) - 1) + (point["z"] == "b"))


def run(study: SweepStudy) -> dict[int, dict[str, Any]]:
    """Complete all that waits; return the points by their tickets."""
    found = {}
    for claimed in claims(study):
        study.complete(claimed, [cost(claimed.point)])
        found[claimed.ticket] = claimed.point
    return found


def settled(study: SweepStudy) -> list[int]:
    """Tickets of the trials that count and are complete."""
    done = study.study.get_trials(states=(TrialState.COMPLETE,))
    return sorted(trial.user_attrs["ticket"] for trial in done)


def test_random_points_follow_from_the_seed_and_the_ticket(tmp_path: Path) -> None:
    (one := tmp_path / "one? #%20").mkdir()  # a name like any other
    (two := tmp_path / "two").mkdir()
    expected = run(opened(one))
    assert (one / "study.db").is_file()
    assert [*expected] == [0, 1, 2, 3, 4, 5]
    assert len({point["x"] for point in expected.values()}) == 6
    # Several at once, one of which is interrupted, in two goes.
    first = opened(two)
    at_work = [first.claim() for _ in range(4)]
    for claimed in at_work[2:0:-1]:
        assert claimed is not None
        first.complete(claimed, [cost(claimed.point)])
    found = {c.ticket: c.point for c in at_work if c}
    found |= run(opened(two))  # 0 and 3 once more
    assert found == expected
    assert run(opened(two, seed=0)) == {}
    (other := tmp_path / "other").mkdir()
    assert run(opened(other, seed=1))[0] != expected[0]


def test_grid_has_each_point_once(tmp_path: Path) -> None:
    space = {"x": Choice((0.0, 1.0)), "z": Choice(([1, 2], None))}
    study = opened(tmp_path, sampler="grid", num_trials=None, space=space)
    points = [claimed.point for claimed in claims(study)]
    assert points == [{"x": x, "z": z} for x in (0.0, 1.0) for z in ([1, 2], None)]


def test_interrupted_trials_keep_their_tickets(tmp_path: Path) -> None:
    study = opened(tmp_path)
    claimed = study.claim()
    assert claimed is not None
    claimed.trial.report(3.0, 0)
    claimed.trial.set_user_attr("runs", ["tiny/000"])
    study.stop(claimed)
    again = study.claim()
    assert again is not None
    assert (again.ticket, again.point, again.runs) == (0, claimed.point, ["tiny/000"])
    assert study.storage.get_trial(again.trial_id).intermediate_values == {0: 3.0}
    assert again.trial.user_attrs["error"] is None
    # As after `kill -9`: whoever opens the file next has it alone.
    study = opened(tmp_path)
    third = study.claim()
    assert third is not None
    assert (third.ticket, third.point, third.runs) == (0, claimed.point, ["tiny/000"])
    assert not study.is_over()


def test_failed_trials_are_not_run_again(tmp_path: Path) -> None:
    study = opened(tmp_path, num_trials=2)
    claimed = study.claim()
    assert claimed is not None
    study.fail(claimed, "it broke")
    assert [*run(opened(tmp_path, num_trials=2))] == [1]
    assert study.is_over()


def test_killed_before_a_retry_is_written(tmp_path: Path) -> None:
    """Optuna records first that a trial failed, then adds another."""
    study = opened(tmp_path, num_trials=2)
    claimed = study.claim()
    assert claimed is not None
    study.storage.set_trial_state_values(claimed.trial_id, TrialState.FAIL)
    assert not study.is_over()
    again = study.claim()
    assert again is not None
    assert (again.ticket, again.point) == (0, claimed.point)


def test_ticket_that_two_commands_have_added(tmp_path: Path) -> None:
    study = opened(tmp_path, num_trials=2)
    study._enqueue(0)
    study._enqueue(1)
    first = study.claim()
    assert first is not None
    assert [c.ticket for c in claims(study)] == [1]  # 0 runs, so its second trial is none
    study.complete(first, [1.0])
    errors = [trial.user_attrs.get("error") for trial in study.study.trials]
    assert errors == [None, None, "repeated", "repeated"]


def test_killed_as_it_made_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue = SweepStudy._enqueue

    def killed(self: SweepStudy, ticket: int) -> None:
        if ticket == 2:
            raise SystemExit
        enqueue(self, ticket)

    monkeypatch.setattr(SweepStudy, "_enqueue", killed)
    with pytest.raises(SystemExit):
        opened(tmp_path)
    monkeypatch.setattr(SweepStudy, "_enqueue", enqueue)
    monkeypatch.setattr(studies, "GRACE_S", 0.3)
    assert [*run(opened(tmp_path, is_alone=False))] == [0, 1, 2, 3, 4, 5]


def test_more_trials_on_resuming(tmp_path: Path) -> None:
    before = run(opened(tmp_path, num_trials=2))
    after = run(opened(tmp_path, num_trials=4))
    assert [*before, *after] == [0, 1, 2, 3]
    assert run(opened(tmp_path, num_trials=3)) == {}


def test_as_many_as_there_is_time_for(tmp_path: Path) -> None:
    study = opened(tmp_path, num_trials=None, max_time_s=1.0)
    for ticket in range(3):
        assert study.claim() is None
        study.add()
        claimed = study.claim()
        assert claimed is not None
        assert claimed.ticket == ticket
    assert not study.is_over()


def test_another_sweep_of_the_same_name(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(
        InputError, match=r"^seeds: 3, but the sweep tried has 1\.\nGive it another"
    ):
        opened(tmp_path, seeds=3)
    opened(tmp_path, pruner="MedianPruner", sampler="TPESampler")


def test_another_sweep_is_known_without_the_experiment(tmp_path: Path) -> None:
    opened(tmp_path)
    url = database.file_address(tmp_path)
    unknown: dict[str, Any] = {"metric": None, "mode": None}
    studies.check_same(planned(**unknown), url, tmp_path)
    studies.check_same(planned(name="new", seeds=3), url, tmp_path)
    wider = {**SPACE, "x": Range(-5.0, 6.0)}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"seeds": 3}, "seeds: 3, but the sweep tried has 1."),
        ({"metric": "val/acc"}, "metric: val/acc, but the sweep tried has val/loss."),
        ({"options": ("--a=1",)}, "options.a: 1, but the sweep tried has none."),
        ({"space": wider}, "space.x.high: 6.0, but the sweep tried has 5.0."),
        ({"config": ()}, "config: not given, but the sweep tried has tiny."),
        (
            {"sampler": "grid"},
            "sampler: grid, whose trials are its points, but the sweep tried has one that draws "
            "its trials.",
        ),
    ]
    for change, message in changes:
        with pytest.raises(InputError) as caught:
            studies.check_same(planned(**{**unknown, **change}), url, tmp_path)
        assert str(caught.value) == f"{message}\nGive it another --name, or delete that one."


def test_another_sweep_is_refused_before_the_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "sweeps" / "tried").mkdir(parents=True)
    first = planned(config=(TINY_CONFIG,), space={}, sampler="grid", num_trials=None)
    SweepStudy(first, database.file_address(folder), True)
    (folder / "sweep.yaml").touch()
    monkeypatch.delattr(supervise, "look")
    args = ["--config", TINY_CONFIG, "--seeds", "3", "--name", "tried", "--runs_dir", str(tmp_path)]
    refused = "seeds: 3, but the sweep tried has 1.\n  Give it another --name, or delete that one."
    fails(main, args, refused, capsys)


def test_two_commands_claim_each_trial_once(tmp_path: Path) -> None:
    one = opened(tmp_path)
    two = opened(tmp_path, is_alone=False)
    claimed = [c for c in (s.claim() for _ in range(4) for s in (one, two)) if c]
    assert [c.ticket for c in claimed] == [0, 1, 2, 3, 4, 5]


def test_slept_for_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial without a sign of life is taken by another command, and lost to this one."""
    monkeypatch.setattr(studies, "GRACE_S", 1)
    one, two = opened(tmp_path, num_trials=1), opened(tmp_path, is_alone=False, num_trials=1)
    claimed = one.claim()
    assert claimed is not None
    one.heartbeat([claimed])
    two.heartbeat([])
    assert two.claim() is None
    make_old(one, claimed)
    two.heartbeat([])
    again = two.claim()
    assert again is not None
    assert again.ticket == 0
    assert not one.is_running(claimed)
    with pytest.raises(UpdateFinishedTrialError):
        one.complete(claimed, [1.0])
    two.complete(again, [2.0])
    assert two.study.best_value == 2.0
    assert settled(one) == [0]


def test_killed_between_claim_and_first_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "GRACE_S", 1)
    one, two = opened(tmp_path, num_trials=1), opened(tmp_path, is_alone=False, num_trials=1)
    claimed = one.claim()
    assert claimed is not None
    make_old(one, claimed)
    two.heartbeat([])
    assert two.claim() is not None


def make_old(study: SweepStudy, claimed: Claimed) -> None:
    """Turn back the clock of a trial's last sign of life."""
    from sqlalchemy import text

    with study.storage.engine.begin() as connection:
        rows = connection.execute(
            text("UPDATE trial_heartbeats SET heartbeat = '2000-01-01' WHERE trial_id = :number"),
            {"number": claimed.trial_id},
        )
        assert rows.rowcount == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "TPESamplr"}, "sampler: Optuna has no TPESamplr. Did you mean `TPESampler`?"),
        (
            {"sampler": "TPESampler", "sampler_args": {"n_startup": 1}},
            "sampler.n_startup: TPESampler has no such argument. Did you mean `n_startup_trials`?",
        ),
        ({"pruner": "Median"}, "pruner: Optuna has no Median. Did you mean `MedianPruner`?"),
        ({"pruner": "BasePruner"}, "pruner: Optuna has no BasePruner. "),
        ({"pruner": "MedianPruner", "pruner_args": {"n_startup_trials": -1}}, "pruner: Median"),
    ],
)
def test_unknown_samplers_and_pruners(settings: dict[str, Any], message: str) -> None:
    made = studies.pruner_of if "pruner" in settings else partial(studies.sampler_of, ticket=0)
    with pytest.raises(InputError) as error:
        made(planned(**settings))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", ["QMCSampler", "NSGAIISampler"])
def test_other_samplers_do_not_repeat_points(name: str, tmp_path: Path) -> None:
    points = [*run(opened(tmp_path, sampler=name)).values()]
    points += [*run(opened(tmp_path, sampler=name, num_trials=10)).values()]
    assert len({str(point) for point in points}) == 10


def test_sampler_that_has_tried_all(tmp_path: Path) -> None:
    space = {"x": Range(0.0, 2.0, step=1.0), "z": Choice(("a", "b"))}
    settings: dict[str, Any] = {"sampler": "BruteForceSampler", "space": space, "num_trials": 9}
    study = opened(tmp_path, **settings)
    points = run(study)
    assert len({str(point) for point in points.values()}) == len(points) == 6
    assert study.is_over()
    assert opened(tmp_path, **settings).claim() is None
    more = opened(tmp_path, **settings | {"num_trials": 10})
    assert not more.is_over()
    other = opened(tmp_path, **settings | {"sampler": "RandomSampler"})
    assert [*run(other)] == [6, 7, 8]


def test_trial_that_was_interrupted_when_all_had_been_tried(tmp_path: Path) -> None:
    space = {"z": Choice(("a", "b"))}
    study = opened(tmp_path, sampler="BruteForceSampler", space=space, num_trials=3)
    first, second = study.claim(), study.claim()
    assert first is not None
    assert second is not None
    study.complete(second, [1.0])
    assert study.study.user_attrs[studies.EXHAUSTED] == "3 by BruteForceSampler {}"
    study.stop(first)
    assert not study.is_over()
    again = study.claim()
    assert again is not None
    assert again.point == first.point
    study.complete(again, [2.0])
    assert study.is_over()


def test_runs_whose_study_is_gone(tmp_path: Path) -> None:
    (tmp_path / "tiny/000").mkdir(parents=True)
    message = (
        f"--name tried: {tmp_path} has runs, but their study is gone from the database.\n"
        "Delete the folder, or give the sweep another --name."
    )
    url = database.file_address(tmp_path)
    with pytest.raises(InputError) as error:
        studies.check_same(planned(), url, tmp_path)
    assert str(error.value) == message
    assert not (tmp_path / "study.db").exists()
    opened(tmp_path)
    studies.check_same(planned(), url, tmp_path)
