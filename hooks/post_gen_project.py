"""Make the new project from the files of the template, and set the few names in them.

Run by cookiecutter in the folder of the project, where so far only what is truly rendered lies, and
the answers, written by ``pre_gen_project.py``.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

Answers = dict[str, str]

COPIED = [
    *("src", "lightkeel", "tests", "configs", "scripts", "Makefile", "pyproject.toml"),
    *("requirements.lock", "locks/export.lock", "locks/litdata.lock", "locks/paddle.lock"),
    *("locks/sweep.lock", "locks/table.lock"),
    *(".gitattributes", ".gitignore", ".pre-commit-config.yaml"),
]
NOT_COPIED = ["tests/lightkeel", "tests/template"]
NOT_COPIED += ["__pycache__", ".*", "*~", "*.orig", "*.rej", "*.egg-info"]
EXAMPLES = {
    "regression": [
        *("configs/linear_regression.yaml", "src/models/linear_regression.py"),
        *("src/data/synthetic_regression.py", "tests/test_linear_regression.py"),
        *("tests/test_synthetic_regression.py", "src/models/mlp.py"),
        *("configs/table.yaml", "configs/table_mlp.yaml", "configs/diabetes.csv"),
        "configs/sweeps/linear_regression.yaml",
    ],
    "vision": [
        *(f"configs/cifar10{kind}.yaml" for kind in ("", "_fast", "_synthetic")),
        "configs/sweeps/cifar10.yaml",
        *(f"src/data/{name}.py" for name in ("augment", "cifar10", "synthetic_images")),
        *(f"src/models/{name}.py" for name in ("fast_cnn", "simple_cnn")),
        *(f"tests/test_{name}.py" for name in ("augment", "simple_cnn", "synthetic_images")),
    ],
}
# With none: plain Lightning, which needs no `supervised.py`.
STARTER = ["configs/blobs.yaml", "src/data/blobs.py", "src/models/point_classifier.py"]
FIRST_CONFIG = {"vision": "cifar10_synthetic", "none": "blobs"}
LOGGERS = ["wandb", "mlflow"]
OF_ANSWERS = {logger: f"locks/{logger}.lock" for logger in LOGGERS}
OF_ANSWERS |= {"github": ".github/workflows/ci.yml", "gitlab": ".gitlab-ci.yml"}
# In pyproject.toml: what only this repository needs, and what it asks of its own files.
PYPROJECT = {
    r'target-version = "py310"\n': 'target-version = "py310"\nextend-exclude = ["lightkeel"]\n',
    r"select = (.*\n)+?(?=\[tool\.ruff\.lint\.isort\])": 'select = ["E", "F", "I", "B", "UP"]\n\n',
    r"\[tool\.ruff\.lint\.pydocstyle\]\n.*\n\n": "",
    r'files = \["src", .*\]\nstrict = .*\nwarn_unreachable = .*\n': 'files = ["src", "tests"]\n',
    r"\[\[tool\.mypy\.overrides\]\] # as other people(.+\n)+\n": (
        '[[tool.mypy.overrides]]\nmodule = ["lightkeel.*"]\nfollow_imports = "silent"\n\n'
    ),
    r"addopts = .*\n": "addopts = \"-rs --strict-markers -m 'not slow'\"\n",
    r'(    "(fuzz|extras|browser|paddle): .*",\n)+': "",
    r'    "hypothesis\b.*",\n': "",
}


class TemplateError(Exception):
    """The project cannot be made, said in one sentence."""


def main() -> None:
    """Make the project, or exit with a message; cookiecutter then removes the folder."""
    file = Path(".answers.json")
    answers: Answers = json.loads(file.read_text("utf-8"))
    file.unlink()
    try:
        make_project(answers, Path.cwd())
    except TemplateError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    if is_for_comparison(answers):
        return
    if answers["git_init"] == "yes":
        try:
            subprocess.run(["git", "init", "--quiet"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"note: no git repository was made: {error}", file=sys.stderr)
    here = Path.cwd()
    shown = here.name if os.environ.get("PWD") == str(here.parent) else str(here)
    print(f"\nNext:\n    cd {shlex.quote(shown)}\n    make train\n")


def make_project(answers: Answers, project: Path) -> None:
    """Make the files in a place of their own, and lay them into the folder of the project.

    That may hold a person's files already (cookiecutter's ``-f``), not to be renamed or removed.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        template = find_template(answers, Path(place))
        made = Path(place, "project")
        made.mkdir()
        os.chdir(made)
        try:
            copy_files(template, answers)
            set_names(answers)
            choose_examples(template, answers["examples"])
            if answers["package_name"] != "src":
                rename_package(answers["package_name"])
        finally:
            os.chdir(project)
        shutil.copytree(made, project, dirs_exist_ok=True)
    if answers["license"] == "none":
        Path("LICENSE").unlink()


def find_template(answers: Answers, place: Path) -> Path:
    """Find the folder of the template, or clone it into ``place``.

    cookiecutter gives it as it was typed, perhaps relative to where the person stood. cookiecutter
    stands in the template while its hooks run (to be seen on Linux alone), a shell tells where it
    stands (``PWD``), and without ``-o`` the project is made there. As each may be wrong, a folder
    counts only with this very script in it.
    """
    given = answers.get("_repo_dir")
    if given is None and "_commit" not in answers:
        raise TemplateError("this cookiecutter is too old. Use version 2.2 or later.")
    if given is None:  # cruft says instead what it has cloned
        return clone(answers["_template"], answers["_commit"], place / "template")
    bases = [answers["_output_dir"], os.environ.get("PWD", ".")]
    for folder in [Path(f"/proc/{os.getppid()}/cwd"), *(Path(base, given) for base in bases)]:
        if holds_template(folder):
            return folder.resolve()
    raise TemplateError(f"cannot find the template {given!r}. Give cookiecutter its absolute path.")


def holds_template(folder: Path) -> bool:
    """Tell whether a folder holds the template that this script was taken from."""
    script = folder / "hooks" / "post_gen_project.py"
    return (
        script.is_file()
        and script.read_text("utf-8").strip() == Path(__file__).read_text("utf-8").strip()
    )


def clone(url: str, commit: str, folder: Path) -> Path:
    """Clone a repository at a commit into ``folder``."""
    checkout = ["git", "-C", str(folder), "checkout", "--quiet", commit]
    try:
        for command in (["git", "clone", "--quiet", "--no-checkout", url, str(folder)], checkout):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise TemplateError(f"cannot clone the template {url}: {reason}") from error
    for script in folder.rglob("hooks/post_gen_project.py"):
        if holds_template(script.parent.parent):
            return script.parent.parent
    raise TemplateError(f"{url} at {commit} does not hold the template. Give its own URL.")


def is_for_comparison(answers: Answers) -> bool:
    """Tell whether this is one of the two projects that ``cruft update`` makes and compares."""
    place = Path.cwd().parent
    temporary = place.parent == Path(tempfile.gettempdir()).resolve()
    return "_repo_dir" not in answers and temporary and bool(re.fullmatch(r"tmp\w{8}", place.name))


def copy_files(template: Path, answers: Answers) -> None:
    """Copy what every project has, and what the answers ask for."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        place = Path(folder).relative_to(template)
        return {name for name in names if any(map((place / name).match, NOT_COPIED))}

    chosen = [OF_ANSWERS[a] for a in (answers["logger"], answers["ci"]) if a in OF_ANSWERS]
    for name in [*COPIED, *chosen]:
        source, target = template / name, Path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=left_out)
        elif source.is_file():
            shutil.copyfile(source, target)
        else:
            raise TemplateError(f"the template has no {name}. Mend COPIED in its hook.")


def set_names(answers: Answers) -> None:
    """Set what the answers say in ``pyproject.toml``, the Makefile and the overlays."""
    pyproject, logger = Path("pyproject.toml"), answers["logger"]
    toml = partial(json.dumps, ensure_ascii=False)  # its rules for a string are those of TOML
    author = {"name": answers["author"], "email": answers["email"]}
    fields = ", ".join(f"{key} = {toml(value)}" for key, value in author.items() if value)
    authors = "\nauthors = [{" + fields + "}]" if fields else ""
    chosen = answers["license"]
    for pattern, new in {
        r'name = ".*"': f"name = {toml(answers['project_slug'])}",
        r'description = ".*"': f"description = {toml(answers['description'])}{authors}",
        r'license = ".*"\n': "" if chosen == "none" else f"license = {toml(chosen)}\n",
        **PYPROJECT,
        **{rf"{group} = \[.*\]\n": "" for group in ("template", *LOGGERS) if group != logger},
    }.items():
        set_line(pyproject, pattern, new)
    first = f"FIRST_EXTRAS = {logger}".removesuffix(" none")
    set_line(Path("Makefile"), r"FIRST_EXTRAS = template", first)
    set_line(Path("Makefile"), r"labs: .*\n.*\n\n", "")
    set_line(Path("Makefile"), r"\.PHONY: .* labs", ".PHONY: setup train test check lock")
    for other in LOGGERS:
        if other != logger:
            remove(Path("configs/overlays", f"{other}.yaml"))


def choose_examples(template: Path, examples: str) -> None:
    """Leave out the examples that are not wanted; of none, begin with the starter."""
    for path in map(Path, STARTER if examples == "none" else ()):
        shutil.copy(template / "tests/template/recipe" / path.name, path)
        for name in re.findall(r"(?m)^class (\w+)", path.read_text("utf-8")):
            listed = path.parent / "__init__.py"
            write(listed, f"{listed.read_text('utf-8')}from .{path.stem} import {name} as {name}\n")
    if examples == "none":
        remove(Path("src/models/supervised.py"))
    for example, names in EXAMPLES.items():
        for path in map(Path, names) if examples not in ("all", example) else ():
            remove(path)
            listed = path.parent / "__init__.py"
            if listed.is_file() and f"from .{path.stem} import" in listed.read_text("utf-8"):
                set_line(listed, rf"from \.{path.stem} import .*\n", "")
    if examples not in ("all", "vision"):
        override = r'\[\[tool\.mypy\.overrides\]\]\nmodule = \["torchvision.*\n(.+\n)*\n'
        set_line(Path("pyproject.toml"), r'    "torchvision\b.*",\n', "")
        set_line(Path("pyproject.toml"), override, "")
        set_line(Path("requirements.lock"), r"(torchvision==.*\n(    .*\n)*)+", "")
        set_line(Path("src/data/__init__.py"), r"    ImageFolder\w+ as .*\n", "")
    if examples in FIRST_CONFIG:
        line = f'PROJECT = Project(__name__, default_config="{FIRST_CONFIG[examples]}")'
        set_line(Path("src/__init__.py"), r"PROJECT = Project\(__name__, default_config=.*\)", line)


def rename_package(new: str) -> None:
    """Give ``src`` another name: the folder, and where it is imported, run or named in a path."""
    parts = "|".join(sorted({re.escape(path.stem) for path in Path("src").iterdir()}))
    shutil.move("src", new)
    # `src.train`, `src/models`, `from src import`; but not `site/src/models` or `copy(src=0)`
    pattern = rf"(?<![\w./-])src(?=[./](?:{parts})\b)|(?<=\bfrom )src(?= import\b)"
    for path in Path().rglob("*"):
        named = path.suffix in (".py", ".yaml", ".sbatch", ".toml") or path.name == "Makefile"
        if named and path.parts[0] != "lightkeel":
            write(path, re.sub(pattern, new, path.read_text("utf-8")))
    set_line(Path("pyproject.toml"), r'files = \["src",', f'files = ["{new}",')


def set_line(path: Path, pattern: str, new: str) -> None:
    """Replace the one place that a pattern finds at the start of a line, or fail."""
    text, count = re.subn(rf"(?m)^{pattern}", lambda _: new, path.read_text("utf-8"))
    if count != 1:
        told = f"{path} has {count} places like {pattern!r} where there should be one."
        raise TemplateError(f"{told} Mend the template's hooks/post_gen_project.py.")
    write(path, text)


def remove(path: Path) -> None:
    """Remove a file that must be there."""
    if not path.is_file():
        raise TemplateError(f"the template has no {path}. Mend its hooks/post_gen_project.py.")
    path.unlink()


def write(path: Path, text: str) -> None:
    """Write a file of text with the same line ends on each system."""
    path.write_bytes(text.encode())


if __name__ == "__main__":
    main()
