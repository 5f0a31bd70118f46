"""What machines run: the checks and tests, and each week the newest versions."""

import re
from typing import Any

import yaml

from tests.lightkeel.places import ROOT


def read(name: str) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load((ROOT / name).read_text())
    return content


def made(commands: list[str]) -> list[str]:
    """List the targets of each ``make`` in commands; they must be in the Makefile."""
    targets = [target for c in commands if c.startswith("make ") for target in c.split()[1:]]
    known = re.findall(r"(?m)^\.PHONY: (.*)", (ROOT / "Makefile").read_text())
    assert set(targets) <= set(" ".join(known).split())
    return targets


def test_github() -> None:
    workflow = read(".github/workflows/ci.yml")
    ((schedule,),) = [workflow[True]["schedule"]]  # YAML reads `on` so
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", schedule["cron"])  # once a week
    jobs = workflow["jobs"]
    for job in jobs.values():
        assert job["runs-on"] == "ubuntu-latest"
        assert all({"uses", "run"} & step.keys() for step in job["steps"])
    runs = {name: [step.get("run", "") for step in job["steps"]] for name, job in jobs.items()}
    assert made(runs["locked"]) == ["check", "test"]
    assert made(runs["newest"]) == ["lock", "check", "test"]
    assert jobs["newest"]["if"] == "github.event_name == 'schedule'"


def test_gitlab() -> None:
    pipeline = read(".gitlab-ci.yml")
    assert made([pipeline["locked"]["script"]]) == ["check", "test"]
    assert made([pipeline["newest"]["script"]]) == ["lock", "check", "test"]
    assert pipeline["newest"]["rules"] == [{"if": '$CI_PIPELINE_SOURCE == "schedule"'}]


def test_newest_versions_stay_within_bounds() -> None:
    """Of what this leans on beyond its documentation, the next minor version is not let in."""
    declared = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'"lightning>=2\.6,<2\.7,', declared)
    assert re.search(r'"jsonargparse\[signatures\]>=4\.\d+,<5"', declared)
    (compile_,) = re.findall(r"(?m)^COMPILE = (.*)", (ROOT / "Makefile").read_text())
    assert "--upgrade" in compile_.split()
