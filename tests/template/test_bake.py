"""Projects as cookiecutter makes them: which files, with which names in them."""

import ast
import json
import re
from itertools import combinations, product
from pathlib import Path

import pytest
import yaml

from tests.lightkeel.places import ROOT
from tests.template.baking import bake, files, run

QUESTIONS = json.loads((ROOT / "cookiecutter.json").read_text())
OPTIONS: dict[str, list[str]] = {
    "package_name": ["src", "myproject"],
    **{name: choices for name, choices in QUESTIONS.items() if isinstance(choices, list)},
}


def covering() -> list[dict[str, str]]:
    """Choose sets of answers, few of them, in which each pair of two options' values occurs."""
    names = list(OPTIONS)

    def pairs(row: tuple[str, ...]) -> set[tuple[tuple[str, str], ...]]:
        return set(combinations(zip(names, row, strict=True), 2))

    rows = list(product(*OPTIONS.values()))
    missing = set().union(*map(pairs, rows))
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        chosen.append(dict(zip(names, best, strict=True)))
    return chosen


LIBRARY = ROOT / "lightkeel"
# Lines of the package, at most.
SIZES = {"all": 1000, "vision": 850, "regression": 550, "none": 400}
DEFAULT = {name: choices[0] for name, choices in OPTIONS.items()}
CASES = [DEFAULT, *(case for case in covering() if case != DEFAULT)]
IDS = ["-".join(case.values()) for case in CASES]


def quick() -> list[dict[str, str]]:
    """Choose those of the cases in which each value occurs: the first that has one not seen yet."""
    seen, chosen = set[tuple[str, str]](), []
    for case in CASES:
        if set(case.items()) - seen:
            chosen.append(case)
            seen |= case.items()
    return chosen


# Tests of the template and of the library.
HOUSE = re.compile(r"tests/(template|lightkeel)/")
# Which example a file belongs to is seen from its name.
REGRESSION = re.compile(
    r"/(test_)?(linear|synthetic)_regression\."
    r"|^src/models/mlp\.py$|^configs/(table(_mlp)?\.yaml|diabetes\.csv)$"
)
VISION = re.compile(
    r"/(test_)?(augment|cifar10(_fast|_synthetic)?|fast_cnn|simple_cnn|synthetic_images)\.(py|yaml)$"
)


def expected_files(case: dict[str, str]) -> set[str]:
    kept = {"Makefile", "pyproject.toml", "requirements.lock", ".gitignore", ".gitattributes"}
    kept |= {".pre-commit-config.yaml", "README.md"}
    kept |= {f"locks/{name}.lock" for name in ("export", "litdata", "paddle", "sweep", "table")}
    for folder in ("src", "lightkeel", "tests", "configs", "scripts"):
        kept |= {f"{folder}/{name}" for name in files(ROOT / folder) if "__pycache__" not in name}
    kept -= {name for name in kept if HOUSE.match(name)}
    kept -= {"configs/overlays/wandb.yaml", "configs/overlays/mlflow.yaml"}
    examples, logger = case["examples"], case["logger"]
    if examples in ("vision", "none"):
        kept -= {name for name in kept if REGRESSION.search(name)}
    if examples in ("regression", "none"):
        kept -= {name for name in kept if VISION.search(name)}
    if examples == "none":
        kept |= {"configs/blobs.yaml", "src/data/blobs.py", "src/models/point_classifier.py"}
        kept -= {"src/models/supervised.py"}
    if logger != "none":
        kept |= {f"configs/overlays/{logger}.yaml", f"locks/{logger}.lock"}
    kept |= set() if case["license"] == "none" else {"LICENSE"}
    ci = {"github": {".github/workflows/ci.yml"}, "gitlab": {".gitlab-ci.yml"}}
    kept |= ci.get(case["ci"], set())
    package = case["package_name"]
    return {re.sub("^src/", f"{package}/", name) for name in kept}


def test_pairs_are_covered() -> None:
    assert len(CASES) < 25
    for (one, firsts), (two, seconds) in combinations(OPTIONS.items(), 2):
        found = {(case[one], case[two]) for case in CASES}
        assert found == set(product(firsts, seconds))


def check_files(case: dict[str, str], project: Path) -> None:
    assert files(project) == expected_files(case)
    assert (project / ".git").is_dir() == (case["git_init"] == "yes")


def check_contents(case: dict[str, str], project: Path) -> None:
    texts = {n: (project / n).read_text() for n in files(project) if n.split("/")[0] != "lightkeel"}
    assert [name for name, text in texts.items() if "cookiecutter" in text + name] == []
    for name in {"README.md", "LICENSE"} & texts.keys():
        assert not re.search(r"[{}]|\[(yyyy|name)", texts[name].replace('{"', "")), name
    if case["package_name"] != "src":
        assert [name for name, text in texts.items() if re.search(r"\bsrc\b", text)] == []
    imported = set()
    for name, text in texts.items():
        if name.endswith(".py"):
            imported |= imports(ast.parse(text))
        elif name.endswith((".yaml", ".yml")):
            assert isinstance(yaml.safe_load(text), dict)
    assert {case["package_name"], "lightkeel", "torch", "lightning"} <= imported
    assert ("torchvision" in imported) == (case["examples"] in ("all", "vision"))


def imports(tree: ast.Module) -> set[str]:
    """Name the top-level modules that a module imports; not those of its own package."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def check_tests_import_what_is_there(case: dict[str, str], project: Path) -> None:
    """And not, say, a file of the tests that only this repository has."""
    missing = []
    for path in project.rglob("tests/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                place = project.joinpath(*node.module.split("."))
                names = [alias.name for alias in node.names] if place.is_dir() else [""]
                is_own = place.is_relative_to(project / "tests")
                missing += [
                    (path.name, node.module, name)
                    for name in names
                    if is_own and not (place / name).with_suffix(".py").is_file()
                ]
        if "tests.lightkeel.zoo" in path.read_text():  # named, and not imported
            missing.append((path.name, "tests.lightkeel.zoo", ""))
    assert missing == []


def check_lint(case: dict[str, str], project: Path) -> None:
    run("ruff", "check", "--no-cache", folder=project)
    run("ruff", "format", "--check", "--no-cache", folder=project)
    makefile = run("make", "--dry-run", "--always-make", "check", "test", "train", folder=project)
    assert f"python -m {case['package_name']}.train" in makefile
    logger = case["logger"]
    assert ("locks/" in makefile) == (logger != "none")
    assert logger == "none" or f"requirements.lock locks/{logger}.lock" in makefile


def check_dependencies(case: dict[str, str], project: Path) -> None:
    """What an example or a logger needs is there with it, and not without."""
    declared = (project / "pyproject.toml").read_text()
    locked = re.findall(r"(?m)^([\w-]+)==", (project / "requirements.lock").read_text())
    vision = case["examples"] in ("all", "vision")
    assert [name in declared for name in ("torchvision", "pillow")] == [vision, True]
    assert ("torchvision" in locked, "torch" in locked) == (vision, True)
    assert not {"cookiecutter", "cruft", "wandb", "mlflow"} & set(locked)
    for logger in ("wandb", "mlflow"):
        assert (logger in declared) == (case["logger"] == logger)


def check_license(case: dict[str, str], project: Path) -> None:
    chosen = case["license"]
    declared = re.findall(r'(?m)^license = "(.*)"', (project / "pyproject.toml").read_text())
    assert declared == ([chosen] if chosen != "none" else [])
    readme = (project / "README.md").read_text()
    assert (f"License: {chosen}." in readme) == (chosen != "none")
    if chosen != "none":
        first = {"MIT": "MIT License", "BSD-3-Clause": "BSD 3-Clause License"}
        text = (project / "LICENSE").read_text()
        assert text.splitlines()[0].strip() == first.get(chosen, "Apache License")
        assert len(re.findall(r"Copyright (?:\(c\) )?\d{4} Ada L\.\n", text)) == 1


def check_readme_shows_the_tree(case: dict[str, str], project: Path) -> None:
    """Each module of the package is named, and nothing that is not there."""
    readme = (project / "README.md").read_text()
    named = set(re.findall(r"\b(\w+\.py)\b", readme)) - {"foo.py"}
    there = {path.name for path in project.rglob("*.py")}
    package = project / case["package_name"]
    modules = {path.name for path in package.rglob("*.py")}
    assert named <= there
    assert modules - {"__init__.py"} <= named
    assert "docs/" not in readme
    (tree,) = re.findall(r"## Where things are\n\n((?:    .*\n)+)", readme)
    assert len(tree.splitlines()) == 8


def check_library(case: dict[str, str], project: Path) -> None:
    """It is taken as it is, whatever the package's name, and needs nothing of the examples."""
    there = files(project / "lightkeel")
    changed = [n for n in there if read(project / "lightkeel", n) != read(LIBRARY, n)]
    assert changed == []
    for path in LIBRARY.rglob("*.py"):
        top = [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.If)]
        needed = ast.Module([n for n in top if isinstance(n, (ast.Import, ast.ImportFrom))], [])
        optional = {"torchvision"} if path.name == "official.py" else set()
        assert not ({"torchvision", "src"} - optional) & imports(needed), path


def check_size(case: dict[str, str], project: Path) -> None:
    assert lines(project / "tests") <= 600
    assert lines(project / case["package_name"]) <= SIZES[case["examples"]]


def read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def lines(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in quick() else [pytest.mark.slow]) for case in CASES],
    ids=IDS,
)
def test_project(case: dict[str, str], template: Path, tmp_path: Path) -> None:
    project = bake(str(template), tmp_path, {"author": "Ada L.", **case})
    check_files(case, project)
    check_contents(case, project)
    check_tests_import_what_is_there(case, project)
    check_lint(case, project)
    check_dependencies(case, project)
    check_license(case, project)
    check_readme_shows_the_tree(case, project)
    check_library(case, project)
    check_size(case, project)
