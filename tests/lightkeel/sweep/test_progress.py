"""How a sweep gets on, counted from trials that are made up, and how it is shown."""

import math
import sys
from collections import Counter
from typing import Any

import pytest

optuna = pytest.importorskip("optuna")

from lightkeel.sweep.progress import (  # noqa: E402
    STOPPING,
    Progress,
    Snapshot,
    live_text,
    snapshot,
)
from tests.lightkeel.sweep.made import (  # noqa: E402
    LR,
    MOMENTUM,
    NAME,
    WIDTHS,
    add,
    study,
    sweep,
)

pytestmark = pytest.mark.extras


def test_counts() -> None:
    """Each ticket counts once: as the trial that ended on its own, or else the last."""
    made = study()
    add(made, 0, value=0.5)
    add(made, 1, "FAIL", error="stopped")
    add(made, 2, "FAIL", error="CUDA out of memory")
    add(made, 3, "FAIL", error=None)  # its process is gone
    add(made, 1, "RUNNING")
    add(made, 3, "WAITING")
    add(made, 4, "PRUNED", value=0.9)
    add(made, 5, value=0.75)
    add(made, 5, "FAIL", error="repeated")
    add(made, 6, "FAIL", error="stopped")  # and is not queued yet
    add(made, 7, "WAITING")  # of a command that had asked for more
    now = snapshot(made, sweep(num_trials=7))
    assert now.states == {"done": 2, "running": 1, "pruned": 1, "failed": 1, "waiting": 2}
    assert now.total == 7
    settings = f"{LR}=0.003162, {NAME}=AdamW, {WIDTHS}=[6, 12]"
    assert now.best == f"trial 005  val/acc 0.75  {settings}  0:01:00"
    assert sorted(now.finished) == [0, 2, 6, 7]
    assert snapshot(made, sweep(num_trials=None, max_time_s=9.0)).total is None
    assert snapshot(made, sweep(num_trials=None, sampler="grid")).total == 8


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 0)])
def test_best_is_by_mode_and_the_first_of_equals(mode: str, best: int) -> None:
    made = study(mode)
    for ticket, value in enumerate([-0.5, 2.0, 2.0, -0.5]):
        add(made, ticket, value=value)
    assert str(snapshot(made, sweep(mode=mode)).best).startswith(f"trial 00{best}  val/acc ")


def left(made: Any, begins: float = math.inf, **plan: Any) -> float | None:
    return snapshot(made, sweep(**plan), begins).seconds_left


def near(seconds: float) -> Any:
    return pytest.approx(seconds, abs=1)


def test_expected_end() -> None:
    """Trials take as long as those before, as many at once as have so far: here two."""
    made = study()
    only_time: dict[str, Any] = {"num_trials": None, "max_time_s": 1000.0}
    for ticket in (0, 1):
        add(made, ticket, "RUNNING", seconds=30)
    for ticket in range(2, 6):
        add(made, ticket, "WAITING")
    assert left(made, num_trials=6) is None
    add(made, 6, value=0.5, seconds=80, ago=30)
    add(made, 7, "PRUNED", value=0.1, seconds=40, ago=30)  # 180 s of trials in 110 s
    usual = (30 + 30 + 4 * 60) / (180 / 110)
    assert left(made, num_trials=8) == near(usual)
    assert left(made, 10, num_trials=8) == near(10 + 60)  # no trial begins later
    assert left(made, -5, num_trials=8) == near(30)
    assert left(made, 100, **only_time) == near(100 + 60)
    assert left(made, -5, **only_time) == near(30)
    assert left(made, **only_time) is None
    add(made, 8, "FAIL", error="stopped", seconds=60, ago=1000)  # a pause is no time of work
    add(made, 8, "RUNNING", seconds=30)
    assert left(made, num_trials=9) == near((3 * 30 + 4 * 60) / (210 / 110))
    for ticket in range(2, 6):
        add(made, ticket, value=0.5, seconds=60, ago=30)
    for ticket in (0, 1):
        add(made, ticket, value=0.5, seconds=60)
    assert left(made, num_trials=9) == near(30)  # the last one, which nothing makes faster
    add(made, 8, value=0.5, seconds=60)
    assert left(made, num_trials=9) == left(made, -5, **only_time) == 0


def test_runs_of_several_seeds_are_no_trials_at_once() -> None:
    """Two workers with two seeds have one trial at work; also between two of them."""
    made, ending = study(), study()
    for ticket, ago in enumerate([90, 30]):
        add(made, ticket, value=0.5, seconds=60, ago=ago)
        add(ending, ticket, value=0.5, seconds=60, ago=60 * (1 - ticket))
    add(made, 2, "RUNNING", seconds=30)
    add(made, 3, "WAITING")
    for ticket in (2, 3):
        add(ending, ticket, "WAITING")
    assert left(made, num_trials=4, seeds=2) == near(30 + 60)
    assert left(ending, num_trials=4, seeds=2) == near(60 + 60)


def test_what_is_shown_live() -> None:
    states = Counter(done=1234, running=16, pruned=321)
    now = Snapshot(states, 2000, "trial 007", 3 * 86400 + 5024.4, {})
    counts = "1234 done, 16 running, 321 pruned, 0 failed"
    assert live_text(now) == f"{counts} of 2000 trials, ends in 3 days, 1:23:45\nbest: trial 007"
    assert live_text(now, STOPPING) == (
        f"{counts} of 2000 trials\nbest: trial 007\n"
        "stopping: saving the runs; Ctrl-C once more ends them at once"
    )
    begun = now._replace(seconds_left=None, best=None, total=None)
    assert live_text(begun) == f"{counts}, end not known yet"
    assert live_text(begun, "") == live_text(begun._replace(seconds_left=0)) == counts


def test_a_line_for_each_trial_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that were over before are not said again."""
    made, plan = study(), sweep()
    add(made, 0, value=0.5)
    with Progress() as progress:
        progress.update(snapshot(made, plan))
        add(made, 1, value=0.12345678, seconds=3723)
        progress.update(snapshot(made, plan))
        progress.update(snapshot(made, plan))
        add(made, 2, "PRUNED", value=0.25, seconds=5, error=None)
        add(made, 3, "FAIL", seconds=7, error="CUDA out of memory")
        progress.update(snapshot(made, plan))
    assert capsys.readouterr().out.splitlines() == [
        f"trial 001  val/acc 0.1234568  {LR}=0.003162, {NAME}=AdamW, {WIDTHS}=[6, 12]"
        "  1:02:03  (2 of 2)",
        f"trial 002  pruned  val/acc 0.25  {LR}=0.01, {NAME}=SGD, {MOMENTUM}=0.9, "
        f"{WIDTHS}=[6, 12]  0:00:05  (4 of 4)",
        f"trial 003  failed  {LR}=0.1, {NAME}=AdamW, {WIDTHS}=[6]  0:00:07  CUDA out of memory"
        "  (4 of 4)",
    ]


def test_live_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last state stays; nothing is written for each trial."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    made, plan = study(), sweep()
    with Progress() as progress:
        progress.update(snapshot(made, plan))
        add(made, 0, value=0.5, params={LR: 0.001})
        progress.update(snapshot(made, plan), STOPPING)
        progress.say("writing results")
        assert progress.is_live
    out = capsys.readouterr().out.replace("\x1b[2K", "").replace("\x1b[1A", "")
    text = (
        "1 done, 0 running, 0 pruned, 0 failed of 1 trials\n"
        f"best: trial 000  val/acc 0.5  {LR}=0.001  0:01:00"
    )
    assert out.split("\r")[-4:-1] == [f"{text}\n{STOPPING}", f"{text}\nwriting results", text]
