"""What a person sees who opens a sweep in a browser, by the line that the sweep has printed."""

import shlex
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna_dashboard")

from lightkeel.sweep.results import report
from lightkeel.sweep.study import SweepStudy
from tests.lightkeel.browsing import browsing, needs_chromium, serving
from tests.lightkeel.commands import free_port
from tests.lightkeel.sweep.made import LR, add, sweep

pytestmark = [
    pytest.mark.browser,
    needs_chromium,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


def test_dashboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sweep's name, its metric, the best value and the settings it was found with."""
    plan = sweep(name="tuned")
    made = SweepStudy(plan, f"sqlite:///{tmp_path / 'study.db'}", is_alone=True).study
    for ticket, value in enumerate([0.5, 0.625, 0.59375, 0.8125]):
        add(made, ticket, value=value)
    report(made, plan, tmp_path)
    printed = capsys.readouterr().out.splitlines()[-1].partition(": ")[2]
    program, *arguments = shlex.split(printed)
    command = [str(Path(sys.executable).parent / program), *arguments]
    server = serving(
        [*command, "--port", free_port()],
        tmp_path / "server.log",
        r"Listening (?:on|at:) (http://[^\s/]+)",
    )
    with server as url, browsing(tmp_path / "profile", height_px=1200) as page:
        page.open(url)
        page.shows("tuned")
        page.open(f"{url}/dashboard/studies/1")
        page.shows("tuned", "Best Trial", "0.8125", LR, "val/acc")
        page.screenshot("optuna_dashboard", tmp_path)
