"""The tests that look at what an owner adds to a project, in one that has been added to."""

import re
from pathlib import Path

import pytest

from tests.template.baking import bake, run
from tests.template.growing import CSV, change_examples, grow

# Configs of its own, and overlays: of any experiment, of one kind, and of a package.
CHOSEN = "sine or table or linear_regression or few or wide or other"


@pytest.mark.slow
def test_any_module_is_taken(template: Path, tmp_path: Path) -> None:
    project = bake(str(template), tmp_path, {"package_name": "mine"})
    grow(project, "mine")
    change_examples(project)

    def tested(choice: str) -> str:
        files = ["tests/test_configs.py", "tests/models/test_contract.py"]
        chosen = ["-p", "no:cacheprovider", "-k", choice]
        return run("python", "-m", "pytest", "-q", *files, *chosen, folder=project)

    printed = tested(CHOSEN)
    for number, reason in {
        2: "[Errno 2] No such file or directory: 'data/table.csv'",
        1: "No module named 'not_installed'",
    }.items():
        assert re.search(rf"SKIPPED \[{number}\] \S+: {re.escape(reason)}\n", printed), printed
    assert re.search(r"(?m)^5 passed, 3 skipped", printed), printed
    (project / "data").mkdir()
    (project / "data/table.csv").write_text(CSV)
    assert re.search(r"(?m)^2 passed", tested("table"))
