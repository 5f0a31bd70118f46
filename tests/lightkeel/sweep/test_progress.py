"""How a sweep gets on, counted from trials that are made up, and how it is shown."""

import sys
from collections import Counter

import pytest

optuna = pytest.importorskip("optuna")

from lightkeel.sweep.progress import Progress, Snapshot, live_text, snapshot  # noqa: E402
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


def test_expected_end() -> None:
    """Trials take as long as those before, as many at once as there are."""
    made = study()
    for ticket in range(2):
        add(made, ticket, "RUNNING", seconds=30)
    for ticket in range(2, 6):
        add(made, ticket, "WAITING")
    assert snapshot(made, sweep(num_trials=6)).seconds_left is None
    add(made, 6, value=0.5, seconds=80)
    add(made, 7, "PRUNED", value=0.1, seconds=40)  # a mean of 60

    def left(**given: float) -> float:
        found = snapshot(made, sweep(num_trials=9), **given).seconds_left  # type: ignore[arg-type]
        assert found is not None
        return found

    assert left() == pytest.approx((30 + 30 + 4 * 60) / 2, abs=1)
    assert left(seconds_to_begin=10) == pytest.approx(10 + 60, abs=1)  # no trial begins later
    assert left(seconds_to_begin=-5) == pytest.approx(60, abs=1)
    only_time = sweep(num_trials=None, max_time_s=1000.0)
    assert snapshot(made, only_time, 2, 100).seconds_left == pytest.approx(160, abs=1)
    add(made, 8, "RUNNING", seconds=30)
    for ticket in range(3, 6):
        add(made, ticket, value=0.5, seconds=60)
    assert left() == pytest.approx((3 * 30 + 60) / 3, abs=1)
    last = study()
    add(last, 0, value=0.5, seconds=60)
    add(last, 1, "WAITING")
    assert snapshot(last, sweep(num_trials=2), workers=2).seconds_left == pytest.approx(30, abs=1)
    done = study()
    add(done, 0, value=0.5)
    assert snapshot(done, sweep(num_trials=1)).seconds_left == 0


def test_what_is_shown_live() -> None:
    states = Counter(done=1234, running=16, pruned=321)
    now = Snapshot(states, 2000, "trial 007", 3 * 86400 + 5025.4, {})
    counts = "1234 done, 16 running, 321 pruned, 0 failed"
    assert live_text(now) == f"{counts} of 2000 trials, ends in 3 days, 1:23:45\nbest: trial 007"
    begun = now._replace(seconds_left=None, best=None, total=None)
    assert live_text(begun) == f"{counts}, end not known yet"


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
        progress.update(snapshot(made, plan))
    *_, last = capsys.readouterr().out.split("\x1b[2K")
    assert last.splitlines()[:2] == [
        "1 done, 0 running, 0 pruned, 0 failed of 1 trials, ends in 0:00:00",
        f"best: trial 000  val/acc 0.5  {LR}=0.001  0:01:00",
    ]
