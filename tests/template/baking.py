"""The template in a folder of its own, and projects made from it as a person makes them."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from tests.lightkeel.places import ROOT

BIN = Path(sys.executable).parent
IGNORED = (".venv", ".git", "data", "runs")  # at the top; `src/data` is no such folder
CACHES = shutil.ignore_patterns("__pycache__", ".*_cache")


def copy_template(target: Path) -> Path:
    """Copy this checkout without what git ignores."""
    target.mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name in IGNORED or path.name.endswith("_cache"):
            continue  # `.git` may be a file, of a worktree: commits would go there
        if path.is_file():
            shutil.copy(path, target)
        else:
            shutil.copytree(path, target / path.name, ignore=CACHES)
    return target


def run(*command: str, folder: Path, status: int = 0) -> str:
    """Run a command in a folder, and return what it prints; it must end with the status given."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def bake(
    template: str, folder: Path, answers: Mapping[str, str], *options: str, status: int = 0
) -> Path:
    """Run cookiecutter in ``folder`` without questions, and return the project's folder."""
    answers = {"git_init": "no", "project_slug": "project", **answers}
    given = [f"{name}={value}" for name, value in answers.items()]
    run("cookiecutter", "--no-input", *options, template, *given, folder=folder, status=status)
    return folder / answers["project_slug"]


def commit(folder: Path) -> str:
    """Commit all there is, in a repository made where there is none, and return the commit."""
    if not (folder / ".git").exists():
        run("git", "init", "--quiet", folder=folder)
    run("git", "add", "--all", folder=folder)
    run("git", "commit", "--quiet", "--message", "All there is", folder=folder)
    return run("git", "rev-parse", "HEAD", folder=folder).strip()


def files(folder: Path) -> set[str]:
    """List the files of a project, without its repository."""
    paths = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    return {p.as_posix() for p in paths if p.parts[0] != ".git"}


def load_hook(template: Path, name: str = "post_gen_project") -> ModuleType:
    """Import a hook, or that which makes a project, as a module of its own."""
    path = template / "hooks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
