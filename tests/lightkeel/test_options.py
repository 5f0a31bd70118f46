"""Misspelt options are refused before PyTorch is imported, and nothing that exists is refused."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from lightkeel.callbacks.table import classes
from lightkeel.errors.bad_input import InputError, readable
from lightkeel.fit.fit import train
from lightkeel.options import cache
from lightkeel.options.cache import Known
from lightkeel.options.cli import ProjectCLI
from lightkeel.options.names import check_options
from lightkeel.options.parser import check_finite
from lightkeel.project import Project, current
from src import data, models
from src.callbacks import Callbacks
from tests.lightkeel.conftest import TINY
from tests.lightkeel.places import CONFIGS, DEFAULT_CONFIG, PACKAGE, alone, common
from tests.lightkeel.small import experiments
from tests.lightkeel.tiny import TinyData

# All short names; and one class each that is there whatever becomes of the examples.
CLASSES = {
    f"{key} {name}": cls
    for key, home in {"model": models, "data": data}.items()
    for name, cls in vars(home).items()
    if isinstance(cls, type)
}
MODEL = f"{PACKAGE.name}.models.supervised.SupervisedModule"
DATA = "lightkeel.data.in_memory.InMemoryDataModule"
CALLBACKS = classes(Callbacks)


def meant(name: str) -> str:
    return f"has no such option. Did you mean `{name}`?"


# Each has one mistake: what the command is given, or a configuration; and the message.
TYPOS: list[tuple[list[str] | str, str]] = [
    (["--modl", MODEL], f"modl: the command line {meant('model')}"),
    (["--lr", "1"], f"lr: the command line {meant('--model.optimizer.lr')}"),
    (
        ["--callbacks.checkpoint", "Chekpoint"],
        "callbacks.checkpoint: there is no class `Chekpoint`. Did you mean `Checkpoint`?",
    ),
    (["--run_nam=mine"], f"run_nam: the command line {meant('run_name')}"),
    (["--trainr.max_epochs", "3"], f"trainr: the command line {meant('trainer')}"),
    (["--trainer.max_epoch", "3"], f"trainer.max_epoch: trainer {meant('max_epochs')}"),
    (["--trainer.max-epochs=3"], f"trainer.max-epochs: trainer {meant('max_epochs')}"),
    (["--trainer", "{max_epoch: 3}"], f"trainer.max_epoch: trainer {meant('max_epochs')}"),
    (
        ["--trainer.max_epochs", "3", "4"],
        "4: is no option. Options begin with --, as in --trainer.max_epochs 5.",
    ),
    (
        ["--model", MODEL, "--model.l1_penlty", "1"],
        f"model.l1_penlty: SupervisedModule {meant('l1_penalty')}",
    ),
    (
        [f"--data={DATA}", "--data.bach_size=1"],
        f"data.bach_size: InMemoryDataModule {meant('batch_size')}",
    ),
    (
        ["--data", f"{{class_path: {DATA}, init_args: {{bach_size: 1}}}}"],
        f"data.bach_size: InMemoryDataModule {meant('batch_size')}",
    ),
    (
        ["--callbacks.chekpoint.mode", "max"],
        f"callbacks.chekpoint: callbacks {meant('checkpoint')}",
    ),
    (
        ["--callbacks.checkpoint.monitr", "val/loss"],
        f"callbacks.checkpoint.monitr: Checkpoint {meant('monitor')}",
    ),
    (
        ["--callbacks.lr_monitor.interval", "step"],
        "callbacks.lr_monitor.interval: LRMonitor has no such option. "
        "Available: none (options of another class stand after it).",
    ),
    (
        ["--callbacks.early_stopping", "null", "--callbacks.early_stopping.patince", "3"],
        f"callbacks.early_stopping.patince: EarlyStopping {meant('patience')}",
    ),
    (
        ["--config", DEFAULT_CONFIG[:-1]],
        f"--config {DEFAULT_CONFIG[:-1]}: no such config. Did you mean `{DEFAULT_CONFIG}`?",
    ),
    (["--config"], "--config: needs the name of a config or a path."),
    (["--resume", "nope"], "--resume nope: no such file or folder."),
    ("modl: 3", f"modl: the command line {meant('model')}"),
    (
        "model:\n  init_args:\n    lr: {a: 1, b: 2}\n    lr: 3",
        "--config mine.yaml: cannot be read "
        "(line 4: `model.init_args.lr` is given twice, first in line 3).",
    ),
    ("model: {a", "--config mine.yaml: is no valid YAML, line 1: expected ',' or '}'"),
    (
        f"model: {{class_path: {MODEL}, init_args: {{l1_penlty: 1}}}}",
        f"model.l1_penlty: SupervisedModule {meant('l1_penalty')}",
    ),
    ("trainer: {max_epoch: 3}", f"trainer.max_epoch: trainer {meant('max_epochs')}"),
    ("trainer.max_epoch: 3", f"trainer.max_epoch: trainer {meant('max_epochs')}"),
    (
        "callbacks: {chekpoint: {mode: max}}",
        f"callbacks.chekpoint: callbacks {meant('checkpoint')}",
    ),
    (
        "callbacks: {checkpoint: {monitr: val/loss}}",
        f"callbacks.checkpoint.monitr: Checkpoint {meant('monitor')}",
    ),
]
OF_CLASSES: list[tuple[list[str] | str, str]] = []
for key, _, short_name in (line.partition(" ") for line in CLASSES):
    message = f"{key}: there is no class `{short_name}x`. Did you mean `{short_name}"
    OF_CLASSES += [([f"--{key}", f"{short_name}x"], message), (f"{key}: {short_name}x", message)]
TYPOS += OF_CLASSES[:2]
MISSING = "raise ImportError('missing')"


@pytest.fixture(scope="session")
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache after a command has been run once, for all processes of pytest-xdist."""
    folder = common(tmp_path_factory, "cache")
    with alone(folder):
        if not list(folder.glob("lightkeel/*.json")):
            fill(folder)
    return folder


def fill(cache_home: Path) -> None:
    """Have the project print its configuration, and keep the parser's names."""
    subprocess.run(
        [sys.executable, "-m", f"{PACKAGE.name}.train", "--print_config"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache_home), "OMP_NUM_THREADS": "1"},
        cwd=PACKAGE.parent,
        stdout=subprocess.DEVNULL,
        timeout=120,
        check=True,
    )
    assert len(list(cache_home.glob("lightkeel/*.json"))) == 1


@pytest.fixture
def known(user_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Known:
    """The names in that cache, which commands in this process then read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(user_cache))
    found = cache.read()
    assert found is not None
    classes = {path: part and (part[0], part[1]) for path, part in found.classes.items()}
    return found._replace(classes=classes)


def run(
    command: str, *args: str, folder: Path, at_import: str, cache_home: Path
) -> tuple[int, str]:
    """Run a command where PyTorch, NumPy and the parser do but one thing when imported."""
    for name in ("torch", "numpy", "jsonargparse"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text(at_import)
    path = os.pathsep.join([str(folder), str(PACKAGE.parent)])
    done = subprocess.run(
        [sys.executable, "-m", f"{PACKAGE.name}.{command}", *args],
        env={**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cache_home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(pytest.param(*typo, id=str(typo[0])) for typo in TYPOS[:6]),
        *(pytest.param(*typo, id=str(typo[0]), marks=pytest.mark.slow) for typo in TYPOS[6:]),
        *(pytest.param(*typo, id=str(typo[0]), marks=pytest.mark.slow) for typo in OF_CLASSES[2:]),
    ],
)
def test_nothing_heavy_is_needed(
    given: list[str] | str,
    message: str,
    user_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The message comes where PyTorch is missing, and is the one that the parser would give."""
    monkeypatch.chdir(tmp_path)
    args = given if isinstance(given, list) else ["--config", "mine.yaml"]
    if isinstance(given, str):
        Path("mine.yaml").write_text(given)
    fakes = tmp_path / "fakes"
    status, printed = run("train", *args, folder=fakes, at_import=MISSING, cache_home=user_cache)
    assert printed.startswith(f"error: {message}")
    assert status == 2
    with pytest.raises(SystemExit, match="2"), readable():
        train(args)
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize(
    ("command", "args", "message"),
    [
        ("evaluate", ["nope"], "RUN nope: no such file or folder."),
        ("evaluate", ["{run}", "--split", "tset"], "--split tset: is no choice."),
        *(
            ("evaluate", ["{run}", f"--{option}", "1"], message)
            for option, message in {
                "trainer.device": f"trainer.device: trainer {meant('devices')}",
                "callbacks.chekpoint": "callbacks.chekpoint: callbacks has no such",
                "splt": f"splt: the command line {meant('split')}",
                "lr": f"lr: the command line {meant('--model.optimizer.lr')}",
            }.items()
        ),
        ("predict", ["{run}", "nope.csv"], "INPUT nope.csv: there is no such file or folder."),
        ("predict", ["{run}", "{run}", "--top", "1"], "--top: python -m "),
        ("export", ["{run}", "--format", "onx"], "--format onx: is no choice."),
        ("export", ["nope", "--format", "ckpt"], "RUN nope: no such file or folder."),
    ],
)
def test_other_commands_need_nothing_heavy(
    command: str, args: list[str], message: str, tiny_run: Path, user_cache: Path, tmp_path: Path
) -> None:
    given = [arg.format(run=tiny_run) for arg in args]
    status, printed = run(
        command, *given, folder=tmp_path, at_import=MISSING, cache_home=user_cache
    )
    assert printed.startswith(f"error: {message}")
    assert status == 2


@pytest.mark.parametrize(
    "args", [["--help"], ["--config", DEFAULT_CONFIG, "-h"], ["--list"]], ids=str
)
def test_pages_need_nothing_heavy(args: list[str], user_cache: Path, tmp_path: Path) -> None:
    there: dict[str, Any] = {"folder": tmp_path, "at_import": MISSING, "cache_home": user_cache}
    assert run("train", *args, **there) == (0, "")


def test_ctrl_c_while_pytorch_is_imported(tiny_run: Path, tmp_path: Path) -> None:
    pressed: dict[str, Any] = {"at_import": "raise KeyboardInterrupt", "cache_home": tmp_path}
    assert run("train", *TINY, folder=tmp_path / "a", **pressed) == (130, "")
    assert run("evaluate", str(tiny_run), folder=tmp_path / "b", **pressed) == (130, "")


def test_names_of_changed_sources_are_not_used(
    known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new option reaches the parser, whose packages are missing here."""
    project, home = tmp_path / "project", tmp_path / "cache"
    shutil.copytree(PACKAGE, project / PACKAGE.name)
    shutil.copytree(CONFIGS, project / CONFIGS.name)
    at_work = current()
    with monkeypatch.context() as patch:  # what was learnt here holds for the copy too
        patch.setenv("XDG_CACHE_HOME", str(home))
        patch.setattr(cache, "BEGAN_NS", time.time_ns())  # modules that other tests have made
        Project(PACKAGE.name, root=project)
        cache.write(known)
    at_work.use()
    monkeypatch.chdir(project)
    place: dict[str, Any] = {"at_import": MISSING, "cache_home": home}
    for path, added, options in (
        (
            "callbacks/__init__.py",
            "    another: LRMonitor | None = None",
            ["--callbacks.another.a"],
        ),
        ("models/supervised.py", "# Another argument", ["--model", MODEL, "--model.another"]),
    ):
        file = project / PACKAGE.name / path
        before, times = file.read_text(), file.stat()
        file.write_text(f"{before}{added}\n")
        status, printed = run("train", *options, folder=tmp_path / "fakes", **place)
        assert (status, printed.splitlines()[-1]) == (1, "ImportError: missing")
        file.write_text(before)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        status, printed = run("train", *options, folder=tmp_path / "fakes", **place)
        assert (status, "has no such option" in printed) == (2, True)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of another project, whose names are kept in a cache of its own."""
    before = current()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "BEGAN_NS", sys.maxsize)
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "model.py"
    file.write_text("A = 1")
    Project("own", root=tmp_path)
    yield file
    before.use()


NAMES = Known(["model"], {"model:": None}, {"model": {"A": "What it is."}})


def test_what_is_known_counts_until_something_changes(own: Path, tmp_path: Path) -> None:
    assert cache.read() is None
    cache.write(NAMES)
    assert cache.read() == NAMES
    own.write_text("A = 10")
    assert cache.read() is None
    cache.write(NAMES)
    another = own.with_name("another.py")
    another.touch()
    assert cache.read() is None
    another.unlink()
    assert cache.read() == NAMES
    (file,) = (tmp_path / "cache").rglob("*.json")
    for damaged in (file.read_bytes()[:-9], b"", b"[]", b"{}", b"\xff"):
        file.write_bytes(damaged)
        assert cache.read() is None
    file.unlink()
    file.mkdir()  # nothing can be written there
    cache.write(NAMES)
    assert cache.read() is None
    assert [*file.parent.iterdir()] == [file]


def test_names_of_other_packages_are_not_used(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installing one changes its folder."""
    packages = own.parent.with_name("site-packages")
    packages.mkdir()
    monkeypatch.setattr(cache, "PACKAGES", [str(packages)])
    cache.write(NAMES)
    assert cache.read() == NAMES
    (packages / "lightning-2.7.0.dist-info").mkdir()
    os.utime(packages, ns=(0, 0))
    assert cache.read() is None


def test_sources_that_changed_while_they_were_imported(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "BEGAN_NS", own.stat().st_mtime_ns - 1)
    cache.write(NAMES)
    assert cache.read() is None


def test_two_processes_keep_names_at_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is whole, or nothing."""
    many = NAMES._replace(names=[f"trainer.{number}" for number in range(20_000)])
    cache.write(many)
    with ThreadPoolExecutor() as pool:
        ids = iter(range(100))
        monkeypatch.setattr(os, "getpid", lambda: next(ids))
        done = [pool.submit(cache.write, many) for _ in range(20)]
        while not all(one.done() for one in done):
            assert cache.read() == many


def taken(cls: type) -> set[str]:
    """Name what the parser lets a class be made with."""
    names = ArgumentParser().add_class_arguments(cls, fail_untyped=False)
    return {str(name).split(".")[0] for name in names}


@pytest.fixture(scope="module")
def parser_names() -> set[str]:
    """The dotted names of all options of the real parser."""

    class Asked(ProjectCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            names.update(str(action.dest) for action in parser._actions)
            raise StopIteration

    names: set[str] = set()
    with pytest.raises(StopIteration):
        Asked([])
    return {name for name in names if name.split(".")[-1] != "help"}


def test_names_are_those_of_the_parser(parser_names: set[str], known: Known) -> None:
    assert set(known.names) == parser_names
    for name, cls in CALLBACKS.items():
        assert known.classes[f"callbacks.{name}:"] == (cls.__name__, sorted(taken(cls)))
    for line, cls in CLASSES.items():
        for path in (line.replace(" ", ":"), f"{cls.__module__}.{cls.__name__}"):
            assert known.classes[path] == (cls.__name__, sorted(taken(cls)))


@pytest.mark.usefixtures("known")
def test_no_option_is_refused(parser_names: set[str]) -> None:
    args = [text for config in experiments() for text in ("--config", config)]
    check_options(args)
    for name, cls in CALLBACKS.items():
        args += [f"--callbacks.{name}.{option}=1" for option in taken(cls)]
    for key, _, name in (line.partition(" ") for line in CLASSES):
        cls = CLASSES[f"{key} {name}"]
        for path in (name, f"{cls.__module__}.{name}"):
            args += [f"--{key}", path, *(f"--{key}.{option}=1" for option in taken(cls))]
            args.append(
                f"--{key}={{class_path: {path}, init_args: {dict.fromkeys(taken(cls), 1)}}}"
            )
    args += [f"--{name}=1" for name in sorted(parser_names - {"config", "resume"})]
    check_options(args)


@pytest.mark.parametrize(
    "args",
    [
        ["--help", "--modl"],
        ["--print_config"],
        ["--model.help"],
        [f"--model.help={MODEL}"],
        ["--model", MODEL, "--model.optimizer.lr", "1"],
        ["--model", MODEL, "--model.init_args.mine=1", "--model.dict_kwargs.mine=1"],
        ["--model", "my.Model", "--model.mine", "1", "--data", "MyData"],
        ["--model", "MyModel"],  # as long as Lightning has been imported, which it is here
        ["--model", "my.yaml", "--model.mine=1"],
        ["--model", MODEL, "--model", "null", "--model.mine=1"],
        ["--model", f"{PACKAGE.name}.models.supervised.initialize", "--model.mine=1"],
        ["--callbacks.checkpoint", "my.Checkpoint", "--callbacks.checkpoint.mine", "1"],
        ["--callbacks", "my.yaml", "--callbacks.checkpoint.mine", "1"],
        ["--callbacks", "{checkpoint: {class_path: my.Own}}", "--callbacks.checkpoint.mine", "1"],
        ["--trainer.callbacks+", "my.Callback", "--trainer.callbacks.init_args.mine", "1"],
        ["--trainer.max_steps", "-1", "--run_name", "2024-13-45"],
        [*TINY, "--model.mine", "1"],
        ["--", "mine"],
    ],
    ids=str,
)
@pytest.mark.usefixtures("known")
def test_what_is_not_certain_is_not_refused(args: list[str]) -> None:
    check_options(args)


class Unlimited:
    """Has defaults that are no finite numbers, of its own and of another class."""

    def __init__(self, most: float = inf, fill: float = nan, least: float = 0.0) -> None: ...


class More(Unlimited):
    def __init__(self, size: float = 1.0, **kwargs: float) -> None: ...


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"most": inf, "fill": nan, "least": 1.0}, ""),
        ({"most": -inf}, "model.most: -inf"),
        ({"most": nan}, "model.most: nan"),
        ({"least": inf}, "model.least: inf"),
        ({"size": inf}, "model.size: inf"),
        ({"max_norm": inf}, ""),
        ({"part": [{"a": (1.0, inf)}]}, "model.part[0].a[1]: inf"),
    ],
)
def test_numbers_that_are_not_finite(settings: dict[str, Any], refused: str) -> None:
    """A default is taken as it is, of a base class too; infinity may mean without a limit."""
    given = {"model": {"class_path": f"{More.__module__}.More", "init_args": settings}}
    if not refused:
        check_finite(given)
        return
    with pytest.raises(InputError) as error:
        check_finite(given)
    assert str(error.value) == f"{refused} is no finite number. Give one that is."


@pytest.mark.parametrize(
    ("given", "refused"),
    [("shake", "data.shake"), ("num_samples", "data.num_samples"), ("val_batch_size", "")],
)
def test_null_in_place_of_a_number(given: str, refused: str) -> None:
    """Jsonargparse takes it wherever there is a default; a type that allows it is asked."""
    path = f"{TinyData.__module__}.TinyData"  # it is imported
    settings = {"data": {"class_path": path, "init_args": {given: None}}}
    if not refused:
        check_finite(settings)
        return
    with pytest.raises(InputError, match=f"{refused}: null. Give a number."):
        check_finite(settings)
