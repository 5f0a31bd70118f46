"""Answers: those that are refused, and where the others go."""

import os
import re
import subprocess
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.lightkeel.places import ROOT
from tests.template.baking import bake, load_hook, run

REFUSED = [
    (
        {"project_slug": "my-project"},
        "project_slug 'my-project': is no Python identifier. Use `my_project`, for example.",
    ),
    (
        {"project_slug": "3d net"},
        "project_slug '3d net': is no Python identifier. Use `my_3d_net`, for example.",
    ),
    (
        {"project_name": " ", "project_slug": "a"},
        "project_name: is empty. Give the project a name.",
    ),
    (
        {"package_name": "größe"},
        "package_name 'größe': is no Python identifier. Use `gr_e`, for example.",
    ),
    (
        {"package_name": ""},
        "package_name '': is no Python identifier. Use `my_project`, for example.",
    ),
    (
        {"package_name": "class"},
        "package_name 'class': is a Python keyword. Use `my_class`, for example.",
    ),
    *(
        (
            {"package_name": name},
            f"package_name '{name}': would hide a module or folder of that name. "
            f"Use `my_{name.lower()}`, for example.",
        )
        for name in (
            "torch",
            "test",
            "lightning",
            "tests",
            "data",
            "Random",
            "yaml",
            "wandb",
            "locks",
            "scripts",
            "lightkeel",
            "Makefile",
        )
    ),
    *(
        (
            {"package_name": name},
            f"package_name '{name}': begins or ends with `_`. Use `{fixed}`, for example.",
        )
        for name, fixed in {"__main__": "main", "x_": "x", "_": "my_project"}.items()
    ),
    (
        {"project_slug": "_x"},
        "project_slug '_x': begins or ends with `_`. Use `x`, for example.",
    ),
    (
        {"project_slug": "torch"},
        "project_slug 'torch': would hide a module or folder of that name. "
        "Use `my_torch`, for example.",
    ),
    (
        {"package_name": "a" * 25},
        f"package_name '{'a' * 25}': has 25 letters. Use at most 24.",
    ),
    (
        {"email": "nobody"},
        "email 'nobody': is no e-mail address. Give one, or leave it empty.",
    ),
    (
        {"description": "one\ntwo"},
        r"description 'one\ntwo': has a line break or control character. Leave it out.",
    ),
]


GOOD = {"project_name": "A", "description": "", "author": "", "email": ""}
GOOD |= {"project_slug": "a_project", "package_name": "src"}


@pytest.mark.parametrize(("answers", "message"), REFUSED, ids=[m[:40] for _, m in REFUSED])
def test_refused(answers: dict[str, str], message: str, template: Path) -> None:
    find_fault = load_hook(template, "pre_gen_project").find_fault
    assert find_fault(GOOD) is None
    assert find_fault({**GOOD, **answers}) == message


# A refusal of each function, as cookiecutter hands it on.
@pytest.mark.parametrize(("answers", "message"), [REFUSED[0], REFUSED[-1]], ids=["slug", "text"])
def test_nothing_is_left(
    answers: dict[str, str], message: str, template: Path, tmp_path: Path
) -> None:
    given = [f"{name}={value}" for name, value in answers.items()]
    command = ["cookiecutter", "--no-input", str(template), *given]
    printed = run(*command, folder=tmp_path, status=1)
    assert f"error: {message}" in printed.splitlines()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_by_a_bad_answer(template: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "README.md"
    mine.parent.mkdir()
    mine.write_text("mine")
    answers = {"project_slug": "mine", "package_name": "torch"}
    bake(str(template), tmp_path, answers, "--overwrite-if-exists", status=1)
    assert [path.name for path in mine.parent.iterdir()] == ["README.md"]
    assert mine.read_text() == "mine"


def test_no_dependency_can_be_hidden(template: Path, tmp_path: Path) -> None:
    """Each module of a package that `pyproject.toml` names is refused as a name."""
    declared = (ROOT / "pyproject.toml").read_text().split("[tool.")[0]
    names = {n.lower() for n in re.findall(r'"([\w-]+)\S*"[,\]]', declared)} - {"types-pyyaml"}
    modules = [
        module
        for module, distributions in packages_distributions().items()
        if {name.lower() for name in distributions} & names and module.isidentifier()
        if not module.startswith("_")
    ]
    assert {"torch", "lightning", "jsonargparse", "yaml", "pytest", "cruft"} <= set(modules)
    hook = (template / "hooks/pre_gen_project.py").read_text()
    (listed,) = re.findall(r"IMPORTED = \((.*?)\n\)", hook, re.S)
    assert [name for name in modules if name not in re.findall(r"\w+", listed)] == []


def test_words_that_need_quoting(template: Path, tmp_path: Path) -> None:
    said = """Say "cheese" \\n & <go> 'on' — für alle"""
    name = 'Our "best" #1'
    answers = {"description": said, "author": 'A "B" C', "email": "a@b.org", "project_name": name}
    project = bake(str(template), tmp_path, answers)
    pyproject = (project / "pyproject.toml").read_text()
    escaped = said.replace("\\", "\\\\").replace('"', '\\"')
    assert (
        f'description = "{escaped}"\nauthors = [{{name = "A \\"B\\" C", email = "a@b.org"}}]\n'
        in pyproject
    )
    assert 'name = "project"\n' in pyproject
    run("ruff", "check", "--no-cache", folder=project)
    readme = (project / "README.md").read_text()
    assert readme.startswith(f"# {name}\n\n{said}\n")
    assert 'A "B" C\n' in (project / "LICENSE").read_text()


def test_slug_comes_from_the_name(template: Path, tmp_path: Path) -> None:
    run("cookiecutter", "--no-input", str(template), "project_name=Über-Net 2", folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["uber_net_2"]
    run("cookiecutter", "--no-input", str(template), "project_name=!!!", folder=tmp_path)
    assert (tmp_path / "my_project" / "README.md").read_text().startswith("# !!!\n")


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("a", "Z")), "n" * 24]
)
def test_longest_package_name(name: str, template: Path, tmp_path: Path) -> None:
    """No line of the project becomes too long, or wants another layout or order."""
    project = bake(str(template), tmp_path, {"package_name": name})
    run("ruff", "check", "--no-cache", folder=project)
    run("ruff", "format", "--check", "--no-cache", folder=project)


def test_questions_are_asked(template: Path, tmp_path: Path) -> None:
    """Enter at each question gives the defaults; each has its line of help."""
    done = subprocess.run(
        ["cookiecutter", str(template)],
        cwd=tmp_path,
        input="\n" * 11,
        capture_output=True,
        text=True,
        env={**os.environ, "PWD": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    for help_line in ("Project name, as the README's title", "Examples to keep", "git init"):
        assert help_line in done.stdout
    assert done.stdout.endswith("Next:\n    cd my_lightning_project\n    make train\n\n")
    assert (tmp_path / "my_lightning_project" / ".git").is_dir()


def test_package_is_renamed_where_it_is_meant(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "src/__init__.py": "",
        "src/models/__init__.py": "",
        "src/train.py": "from . import run  # python -m src.train\ncopy(x, src=0); src = 1\n",
        "tests/test_a.py": (
            "from src import train\nfrom src.models import A\nimport src.train as t\n"
            'ARGS = ["-m", "src.train"]; SITE = "http://a/src/models"; NAME = "other.src.train"\n'
            'PATH = "src/models/a.py"; OTHER = ("src/other", "src.other", "my_src.train")\n'
        ),
        "configs/a.yaml": "model: src.models.A\nsource: src\n",
        "Makefile": "train:\n\tpython -m src.train\n\tcp -r src/ there\n",
        "pyproject.toml": '[tool.mypy]\nfiles = ["src", "tests"]\nexclude = ["src/train.py"]\n',
        "lightkeel/a.py": "from src.models import A\n",
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    load_hook(template).rename_package("mine")
    meant = {
        "mine/train.py": "from . import run  # python -m mine.train\ncopy(x, src=0); src = 1\n",
        "tests/test_a.py": (
            "from mine import train\nfrom mine.models import A\nimport mine.train as t\n"
            'ARGS = ["-m", "mine.train"]; SITE = "http://a/src/models"; NAME = "other.src.train"\n'
            'PATH = "mine/models/a.py"; OTHER = ("src/other", "src.other", "my_src.train")\n'
        ),
        "configs/a.yaml": "model: mine.models.A\nsource: src\n",
        "Makefile": "train:\n\tpython -m mine.train\n\tcp -r src/ there\n",
        "pyproject.toml": '[tool.mypy]\nfiles = ["mine", "tests"]\nexclude = ["mine/train.py"]\n',
        "lightkeel/a.py": texts["lightkeel/a.py"],
    }
    assert {name: (tmp_path / name).read_text() for name in meant} == meant
    assert not (tmp_path / "src").exists()
