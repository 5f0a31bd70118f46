"""Wherever the template comes from, the project is the same."""

import json
import shutil
from pathlib import Path

import pytest

from tests.template.baking import bake, commit, files, load_hook, run


@pytest.fixture(scope="module")
def contents(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return read(bake(str(template), tmp_path_factory.mktemp("absolute"), {}))


def read(project: Path) -> dict[str, bytes]:
    return {n: (project / n).read_bytes() for n in files(project) if n != ".cruft.json"}


def test_the_template_is_no_repository(template: Path) -> None:
    """What tests commit in a copy stays there: a worktree's `.git` is a file that names another."""
    assert (template / "src").is_dir()
    assert not (template / ".git").exists()


def other_template(folder: Path, template: Path) -> Path:
    """Copy the template and change a file that the hooks don't look at."""
    shutil.copytree(template, folder)
    with (folder / "src/train.py").open("a") as file:
        file.write("# another\n")
    return folder


OUTPUT = ["--output-dir", "made/here"]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("place", "output", "pwd"),
    [
        pytest.param("here", [], "right", marks=SLOW),
        pytest.param("here", OUTPUT, "stale", marks=SLOW),
        ("here", OUTPUT, "misleading"),
        pytest.param("beside", [], "stale", marks=SLOW),
        ("beside", OUTPUT, "missing"),
        pytest.param("beside", [], "misleading", marks=SLOW),
    ],
)
def test_relative_path(
    place: str,
    output: list[str],
    pwd: str,
    contents: dict[str, bytes],
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where PWD is not where the person stands, or another version of the template."""
    copy = tmp_path / "copy"
    shutil.copytree(template, copy)
    (tmp_path / "work").mkdir()
    folder, given = {"here": (copy, "."), "beside": (tmp_path / "work", "../copy")}[place]
    if pwd == "right":
        monkeypatch.setenv("PWD", str(folder))
    elif pwd == "stale":
        monkeypatch.setenv("PWD", str(tmp_path))
    elif pwd == "misleading":
        other = other_template(tmp_path / "other" / "copy", template)
        monkeypatch.setenv("PWD", str(other if place == "here" else other.parent / "copy"))
    else:
        monkeypatch.delenv("PWD")
    bake(given, folder, {}, *output)
    assert read(folder.joinpath(*output[1:], "project")) == contents


@pytest.mark.slow
def test_git_url(contents: dict[str, bytes], repository: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    assert read(bake(f"git+file://{repository}", work, {})) == contents


@pytest.mark.slow
def test_zip_file(contents: dict[str, bytes], template: Path, tmp_path: Path) -> None:
    root = tmp_path / "zipped"
    shutil.copytree(template, root / "template-main")
    archive = shutil.make_archive(str(tmp_path / "template"), "zip", root, "template-main")
    work = tmp_path / "work"
    work.mkdir()
    assert read(bake(archive, work, {})) == contents


@pytest.mark.slow
def test_cruft(contents: dict[str, bytes], repository: Path, tmp_path: Path) -> None:
    answers = json.dumps({"project_slug": "project", "git_init": "no"})
    given = ["--no-input", "--extra-context", answers, "--output-dir", str(tmp_path)]
    run("cruft", "create", *given, str(repository), folder=repository.parent)
    assert read(tmp_path / "project") == contents
    run("cruft", "check", folder=tmp_path / "project")


@pytest.mark.slow
def test_template_within_a_repository(
    contents: dict[str, bytes], template: Path, tmp_path: Path
) -> None:
    """Given by `--directory`, which cruft does not tell."""
    repository = tmp_path / "repository"
    shutil.copytree(template, repository / "deep" / "down")
    commit(repository)
    url, directory = f"git+file://{repository}", ("--directory", "deep/down")
    assert read(bake(url, tmp_path, {}, *directory)) == contents
    answers = json.dumps({"project_slug": "second", "git_init": "no"})
    given = ["--no-input", "--extra-context", answers, *directory, str(repository)]
    run("cruft", "create", *given, folder=tmp_path)
    assert files(tmp_path / "second") == {*contents, ".cruft.json"}


@pytest.mark.slow
def test_overwriting_a_project(contents: dict[str, bytes], template: Path, tmp_path: Path) -> None:
    """With `-f`: what it has of its own stays, what the template has is as new."""
    answers = {"package_name": "mine", "examples": "none"}
    project = bake(str(template), tmp_path, answers)
    first = read(project)
    own = {
        "mine/own.py": b"# as in src.models of another project",
        "src/kernel.cpp": b"int x;",
        "configs/cifar10.yaml": b"own: 1",
        "tests/template/test_own.py": b"",
    }
    for name, content in own.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(content)
    (project / "Makefile").unlink()
    (project / "mine/train.py").write_text("changed")
    bake(str(template), tmp_path, answers, "--overwrite-if-exists")
    assert read(project) == {**first, **own}


@pytest.mark.slow
def test_lines_may_end_as_on_windows(
    contents: dict[str, bytes], template: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(template, copy)
    for name in files(copy):
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content.replace(b"\n", b"\r\n"))
    bake(str(copy), tmp_path, {"examples": "none", "package_name": "mine"})
    run("ruff", "check", "--no-cache", folder=tmp_path / "project")


@pytest.mark.slow
def test_cruft_takes_its_commit(repository: Path, tmp_path: Path) -> None:
    """What the template's folder holds beside the commit is not taken."""
    (repository / "src" / "unfinished.py").write_text("x = ")
    answers = json.dumps({"project_slug": "project"})
    run(
        "cruft",
        "create",
        "--no-input",
        "--extra-context",
        answers,
        str(repository),
        folder=tmp_path,
    )
    assert not (tmp_path / "project/src/unfinished.py").exists()
    assert (tmp_path / "project/.git").is_dir()


@pytest.mark.parametrize(
    ("given", "output_dir", "pwd", "found"),
    [
        ("../copy", "work", "elsewhere", True),  # no --output-dir: made where the person stands
        ("../copy", "made/here", "work", True),
        ("../copy", "made/here", None, False),
        ("../copy", "made/here", "made/here", False),
        (".", "copy", "elsewhere", True),
        (".", "made", "copy", True),
        (".", "elsewhere", "made", False),
        ("/copy", "made", "made", True),  # absolute
    ],
)
def test_where_processes_do_not_show_where_they_stand(
    given: str,
    output_dir: str,
    pwd: str | None,
    found: bool,
    template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on macOS and Windows; a folder with another template in it does not count."""
    copy = tmp_path / "copy"
    shutil.copytree(template, copy)
    other = tmp_path / "elsewhere" / "copy"
    shutil.copytree(template / "hooks", other / "hooks")
    (other / "hooks/post_gen_project.py").write_text("print(1)")
    hook = load_hook(template)
    monkeypatch.setattr(hook.os, "getppid", lambda: 0)
    if pwd:
        monkeypatch.setenv("PWD", str(tmp_path / pwd))
    else:
        monkeypatch.delenv("PWD")
    given = given.replace("/copy", str(copy)) if given.startswith("/") else given
    answers = {"_repo_dir": given, "_output_dir": str(tmp_path / output_dir)}
    for folder in ("work", "made/here"):
        (tmp_path / folder).mkdir(parents=True)
    if found:
        assert hook.find_template(answers, tmp_path) == copy
    else:
        with pytest.raises(hook.TemplateError, match=r"Give cookiecutter its absolute path\.$"):
            hook.find_template(answers, tmp_path)


def test_cookiecutter_that_is_too_old(template: Path, tmp_path: Path) -> None:
    hook = load_hook(template)
    with pytest.raises(hook.TemplateError, match=r"too old\. Use version 2\.2 or later\.$"):
        hook.find_template({"_template": "there"}, tmp_path)


def test_junk_is_not_copied(contents: dict[str, bytes], template: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(template, copy)
    junk = ["train.py~", "train.py.orig", ".DS_Store", "a.egg-info/b", "train.rej"]
    for name in [*(f"src/{name}" for name in junk), *(f"lightkeel/fit/{name}" for name in junk)]:
        path = copy / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert read(bake(str(copy), tmp_path, {})) == contents


def test_template_that_cannot_be_cloned(template: Path, tmp_path: Path) -> None:
    hook = load_hook(template)
    answers = {"_template": str(tmp_path / "gone"), "_commit": "0" * 40}
    with pytest.raises(hook.TemplateError, match=rf"^cannot clone the template {tmp_path}/gone: "):
        hook.find_template(answers, tmp_path / "place")


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("pyproject.toml", ('license = "MIT"', 'license = {text = "MIT"}')),
        pytest.param(
            "src/__init__.py", ("default_config=", "root=None, default_config="), marks=SLOW
        ),
        pytest.param("Makefile", ("FIRST_EXTRAS = ", "FIRST_EXTRAS := "), marks=SLOW),
    ],
)
def test_place_that_is_gone(
    path: str, change: tuple[str, str], template: Path, tmp_path: Path
) -> None:
    """The hook fails loudly, and there is no project."""
    copy = tmp_path / "copy"
    shutil.copytree(template, copy)
    text = (copy / path).read_text()
    assert text.count(change[0]) >= 1
    (copy / path).write_text(text.replace(*change))
    given = ["--no-input", str(copy), "examples=none", "project_slug=project"]
    printed = run("cookiecutter", *given, folder=tmp_path, status=1)
    assert f"\nerror: {path} has 0 places like " in printed
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize(
    "path",
    [
        "configs/cifar10.yaml",
        *(pytest.param(path, marks=SLOW) for path in ("requirements.lock", "lightkeel")),
    ],
)
def test_file_that_is_gone(path: str, template: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(template, copy)
    gone = copy / path
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    given = ["--no-input", str(copy), "examples=regression"]
    printed = run("cookiecutter", *given, folder=tmp_path, status=1)
    assert f"\nerror: the template has no {path}." in printed
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
