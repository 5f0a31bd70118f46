"""Templates to make projects from, and a person who does."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lightkeel.places import common
from tests.template.baking import BIN, commit, copy_template


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with tests of a minute each: one at the end would be waited for."""
    items.sort(key=lambda item: "test_end_to_end" not in item.nodeid)


@pytest.fixture(autouse=True, scope="package")
def _person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Somebody with a git identity and no other settings, whose home is left alone."""
    home = tmp_path_factory.mktemp("home")
    config = home / "cookiecutter.yaml"
    config.write_text(f"cookiecutters_dir: {home}/templates\nreplay_dir: {home}/replay\n")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COOKIECUTTER_CONFIG", str(config))
        environment.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        # What mypy finds out about PyTorch is the same in each project.
        environment.setenv("MYPY_CACHE_DIR", str(common(tmp_path_factory, "mypy")))
        # As this test has one process, so have those of a project.
        environment.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "0")
        environment.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
        # Of a make that runs these tests; the last, of its command line, a make within would take.
        for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "EXTRAS", "ARGS", "ADD", "VENV"):
            environment.delenv(name, raising=False)
        for role in ("AUTHOR", "COMMITTER"):
            environment.setenv(f"GIT_{role}_NAME", "A. Person")
            environment.setenv(f"GIT_{role}_EMAIL", "person@example.org")
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the template, not to be written to."""
    return copy_template(tmp_path_factory.mktemp("template") / "template")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The template as a git repository of its own, with one commit."""
    folder = copy_template(tmp_path / "repository")
    commit(folder)
    return folder
