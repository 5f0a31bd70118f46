"""What a person sees who opens a sweep in a browser, by the line that the sweep has printed."""

import shlex
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna_dashboard")

from lightkeel.sweep.results import report
from tests.lightkeel.browsing import browsing, needs_chromium, serving
from tests.lightkeel.commands import free_port
from tests.lightkeel.sweep.made import LR, add, study, sweep

pytestmark = [pytest.mark.browser, needs_chromium]


def test_dashboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A study's name, its best value and the settings it was found with."""
    made = study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="tuned")
    for ticket, value in enumerate([0.5, 0.625, 0.59375, 0.8125]):
        add(made, ticket, value=value)
    report(made, sweep(name="tuned"), tmp_path)
    printed = capsys.readouterr().out.splitlines()[-1].partition(": ")[2]
    program, *arguments = shlex.split(printed)
    command = [str(Path(sys.executable).parent / program), *arguments]
    server = serving(
        [*command, "--port", free_port()], tmp_path / "server.log", r"Listening on (http://\S+)/"
    )
    with server as url, browsing(tmp_path / "profile", height_px=1200) as page:
        page.open(url)
        page.shows("tuned")
        page.open(f"{url}/dashboard/studies/1")
        page.shows("tuned", "Best Trial", "0.8125", LR)
        page.screenshot("optuna_dashboard", tmp_path)
