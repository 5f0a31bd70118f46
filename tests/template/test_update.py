"""A project takes a later version of the template, and keeps what its owner has changed."""

import json
from pathlib import Path

import pytest

import lightkeel
from tests.template.baking import commit, files, run


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


@pytest.mark.slow
def test_cruft_update(repository: Path, tmp_path: Path) -> None:
    answers = {"project_slug": "project", "package_name": "mine", "examples": "regression"}
    given = ["--no-input", "--extra-context", json.dumps(answers), "--output-dir", str(tmp_path)]
    run("cruft", "create", *given, str(repository), folder=tmp_path)
    project = tmp_path / "project"
    commit(project)

    # The template mends a file of the package and one that is rendered, and adds one with a test.
    model = "models/linear_regression.py"
    edit(repository / "src" / model, "import Any\n", "import Any  # of the template\n")
    library = repository / "lightkeel"
    edit(library / "__init__.py", f'"{lightkeel.__version__}"', '"9.8.7"')
    (library / "runs/added.py").write_text('"""New in the library."""\n')
    (library / "runs/tables.py").unlink()
    edit(repository / "configs/linear_regression.yaml", "num_samples: 1000", "num_samples: 2000")
    rendered = repository / "{{cookiecutter.project_slug}}/README.md"
    edit(rendered, "`make check` runs", "To be sure, `make check` runs")
    (repository / "src/models/added.py").write_text('"""Added."""\n')
    added = '"""Test it."""\n\nfrom src.models import added as added\n'
    (repository / "tests/test_added.py").write_text(added)
    (repository / "src/models/simple_cnn.py").write_text('"""Not in this project."""\n')
    later = commit(repository)

    # The project's owner changes other lines of two of them, removes a file and adds a model.
    edit(project / "mine" / model, "R2Score()})\n", "R2Score()})  # my own\n")
    edit(project / "configs/linear_regression.yaml", "max_epochs: 10", "max_epochs: 11")
    edit(project / "README.md", "# My Lightning Project", "# Renamed")
    (project / ".pre-commit-config.yaml").unlink()
    (project / "mine/models/own.py").write_text('"""My own."""\n')
    commit(project)

    printed = run("cruft", "update", "--skip-apply-ask", folder=project)
    assert "Good work!" in printed
    assert "Next:" not in printed  # said of the project, and not of those that are compared
    merged = (project / "mine" / model).read_text()
    assert "R2Score()})  # my own\n" in merged
    assert "import Any  # of the template\n" in merged
    updated = {name: (project / "lightkeel" / name).read_bytes() for name in files(library)}
    assert updated == {name: (library / name).read_bytes() for name in files(library)}
    assert b"9.8.7" in updated["__init__.py"]
    assert not (project / "lightkeel/runs/tables.py").exists()
    config = (project / "configs/linear_regression.yaml").read_text()
    assert "num_samples: 2000" in config
    assert "max_epochs: 11" in config
    readme = (project / "README.md").read_text()
    assert readme.startswith("# Renamed\n")
    assert "To be sure, `make check` runs" in readme
    assert (project / "mine/models/added.py").read_text() == '"""Added."""\n'
    assert (project / "tests/test_added.py").read_text() == added.replace("src", "mine")
    assert (project / "mine/models/own.py").exists()
    assert not (project / ".pre-commit-config.yaml").exists()
    assert not list(project.rglob("simple_cnn.py"))
    assert not list(project.rglob("*.rej"))
    assert not (project / "src").exists()
    assert json.loads((project / ".cruft.json").read_text())["commit"] == later
    changed = run("git", "status", "--porcelain", folder=project).splitlines()
    assert len(changed) == 9, changed  # the eight files above and .cruft.json
