"""Misspelt options are refused before PyTorch is imported, and nothing that exists is refused."""

import os
import subprocess
import sys
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from lightkeel.callbacks.table import classes
from lightkeel.errors.bad_input import InputError, readable
from lightkeel.fit.fit import train
from lightkeel.options import names as options
from lightkeel.options.cli import ProjectCLI
from lightkeel.options.names import check_finite, check_options, parser_options
from lightkeel.options.signatures import find_class, parameters
from src import data, models
from src.callbacks import Callbacks
from tests.lightkeel.conftest import TINY
from tests.lightkeel.places import DEFAULT_CONFIG, PACKAGE
from tests.lightkeel.small import experiments

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
        "callbacks.lr_monitor.interval: LRMonitor has no such option. Available: none.",
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
if not options.is_mentioned("NoSuchClass"):  # no module of others could bring such a one
    for key, _, short_name in (line.partition(" ") for line in CLASSES):
        message = f"{key}: there is no class `{short_name}x`. Did you mean `{short_name}"
        TYPOS += [([f"--{key}", f"{short_name}x"], message), (f"{key}: {short_name}x", message)]


def run(command: str, *args: str, folder: Path, at_import: str) -> tuple[int, str]:
    """Run a command where PyTorch, NumPy and the parser do but one thing when imported."""
    for name in ("torch", "numpy", "jsonargparse"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(at_import)
    done = subprocess.run(
        [sys.executable, "-m", f"{PACKAGE.name}.{command}", *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(PACKAGE.parent)])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(("given", "message"), TYPOS, ids=[str(given) for given, _ in TYPOS])
def test_nothing_heavy_is_needed(
    given: list[str] | str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The message comes where PyTorch is missing, and is the one that the parser would give."""
    monkeypatch.chdir(tmp_path)
    args = given if isinstance(given, list) else ["--config", "mine.yaml"]
    if isinstance(given, str):
        Path("mine.yaml").write_text(given)
    missing = "raise ImportError('missing')"
    status, printed = run("train", *args, folder=tmp_path / "fakes", at_import=missing)
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
            }.items()
        ),
        ("predict", ["{run}", "nope.csv"], "INPUT nope.csv: there is no such file or folder."),
        ("predict", ["{run}", "{run}", "--top", "1"], "--top: python -m "),
        ("export", ["{run}", "--format", "onx"], "--format onx: is no choice."),
        ("export", ["nope", "--format", "ckpt"], "RUN nope: no such file or folder."),
    ],
)
def test_other_commands_need_nothing_heavy(
    command: str, args: list[str], message: str, tiny_run: Path, tmp_path: Path
) -> None:
    given = [arg.format(run=tiny_run) for arg in args]
    missing = "raise ImportError('missing')"
    status, printed = run(command, *given, folder=tmp_path, at_import=missing)
    assert printed.startswith(f"error: {message}")
    assert status == 2


def test_ctrl_c_while_pytorch_is_imported(tiny_run: Path, tmp_path: Path) -> None:
    pressed = "raise KeyboardInterrupt"
    assert run("train", *TINY, folder=tmp_path / "a", at_import=pressed) == (130, "")
    assert run("evaluate", str(tiny_run), folder=tmp_path / "b", at_import=pressed) == (130, "")


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


def test_names_are_those_of_the_parser(parser_names: set[str]) -> None:
    known = parser_options()
    assert known is not None
    names, classes = known
    assert names == parser_names
    certain = set()
    for name, cls in CALLBACKS.items():
        found = classes[f"callbacks.{name}"]
        takes = parameters(found) if found else None
        if takes is not None:
            assert takes == taken(cls)
            certain.add(name)
    # An owner's may be left to the parser, as those of other packages are.
    assert {"nonfinite", "gradient_clipping", "checkpoint", "early_stopping", "plots"} <= certain


OWN = {name: cls for name, cls in CLASSES.items() if cls.__module__.startswith(PACKAGE.name + ".")}


@pytest.mark.parametrize("cls", OWN.values(), ids=OWN)
def test_parameters_are_those_of_the_parser(cls: type) -> None:
    found = find_class(
        PACKAGE.joinpath(*cls.__module__.split(".")[1:]).with_suffix(".py"), cls.__name__
    )
    assert found is not None
    assert parameters(found) in (None, taken(cls))


@pytest.mark.parametrize("config", experiments())
def test_no_option_is_refused(config: str, parser_names: set[str]) -> None:
    args = ["--config", DEFAULT_CONFIG, "--config", config]
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
def test_what_is_not_certain_is_not_refused(args: list[str]) -> None:
    check_options(args)


BASE = """
class Base:
    def __init__(self, one, two=2, *, three=3): ...
"""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("class A(Base): ...", {"one", "two", "three"}),
        ("class A(Base):\n def __init__(self): ...", set()),
        ("class Base(Base): ...\nA = 1\nfrom .own import Base as A", None),  # no such file
        ("class Base(Base): ...\nclass A(Base): ...", {"one", "two", "three"}),
        (
            "class A(Base):\n def __init__(self, a, **k):\n  super().__init__(one=1, **k)",
            {"a", "two", "three"},
        ),
        ("class A(Base):\n def __init__(self, **k):\n  super().__init__(1, **k)", None),
        ("class A(Base):\n def __init__(self, **k):\n  Base.__init__(self, **k)", None),
        ("class A(Base):\n def __init__(self, **k):\n  k.pop('a'); super().__init__(**k)", None),
        ("class A(Base):\n def __init__(self, *a): ...", None),
        ("class A(Base):\n @wrap\n def __init__(self): ...", None),
        ("class A(Base):\n if 1:\n  def __init__(self): ...", None),
        ("class A(Base):\n def __new__(cls, a): ...", None),
        ("class A(Base):\n __init__ = make()", None),
        ("class A(Base, Other): ...", None),
        ("class A(Base, metaclass=Meta): ...", None),
        ("class A(Other): ...", None),
        ("@wrap\nclass A(Base): ...", None),
        ("class A(Base): ...\nA = wrap(A)", None),
        ("class A(Base): ...\nif 1:\n from other import A", None),
        ("class A(Base): ...\nfrom other import *", None),
        ("from other import Base\nclass A(Base): ...", None),
        ("class A(Base:", None),
    ],
)
def test_parameters(text: str, names: set[str] | None, tmp_path: Path) -> None:
    """In one file, and with what stands above the class imported from another."""
    (tmp_path / "base.py").write_text(BASE)
    for number, above in enumerate((BASE, "from .base import Base\n")):
        file = tmp_path / f"{number}.py"
        file.write_text(above + text)
        found = find_class(file, "A")
        assert (parameters(found) if found else None) == names


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("import torch\nfrom torch.nn import Linear", False),
        ("class Mine: ...", True),
        ("import others", True),
        ("def late():\n    from others.models import Any", True),
    ],
)
def test_short_names_of_others(
    text: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text(text)
    project = SimpleNamespace(package="own", root=tmp_path, folder=tmp_path)
    monkeypatch.setattr(options, "current", lambda: project)
    assert options.is_mentioned("Mine") == known


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
