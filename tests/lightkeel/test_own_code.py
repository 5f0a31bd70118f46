"""What a person writes beside the project: its errors are shown, its classes stand alone."""

import io
import json
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightkeel.errors import explain
from lightkeel.options.configs import resolve_configs
from src import models
from src.evaluate import main as evaluate
from src.train import main as train
from tests.lightkeel.commands import fails
from tests.lightkeel.conftest import TINY
from tests.lightkeel.places import DEFAULT_CONFIG
from tests.lightkeel.small import class_path, experiments

HEAD = """
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch.utils.data import DataLoader, TensorDataset
"""
MODULE = """
class Points(LightningDataModule):
    def __init__(self, batch_size: int = 8, spread: float = 1.0):
        super().__init__()
        self.batch_size, self.spread = batch_size, spread

    def train_dataloader(self):
        x = self.spread * torch.arange(32.0).reshape(16, 2) / 32
        return DataLoader(TensorDataset(x, x.sum(1)), self.batch_size)

    val_dataloader = test_dataloader = train_dataloader


class Net(LightningModule):
    def __init__(self, num_features: int = 2, hidden: int = 4):
        super().__init__()
        layers = [torch.nn.Linear(num_features, hidden), torch.nn.Linear(hidden, 1)]
        self.net = torch.nn.Sequential(*layers, torch.nn.Flatten(0))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.mse_loss(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", torch.nn.functional.mse_loss(self(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", torch.nn.functional.mse_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class OwnLoaders(Net):
    def train_dataloader(self):
        return Points().train_dataloader()

    def test_dataloader(self):
        return Points().train_dataloader()
"""
# The model of the default experiment, by its full path, and its arguments there.
DEFAULT = experiments()[DEFAULT_CONFIG]["model"]
FOUND: Any = getattr(models, class_path(DEFAULT), None)
DEFAULT_MODEL = f"{FOUND.__module__}.{FOUND.__qualname__}" if FOUND else class_path(DEFAULT)
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Write:
    """Write a module beside the project, as a person would; return its name, new in each test."""

    def write_module(text: str) -> str:
        name = f"own_{abs(hash(request.node.nodeid))}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    return write_module


def resolved(run: Path) -> dict[str, Any]:
    """Read the configuration of a run, of plain values only."""
    config: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    return config


def printed(args: list[str]) -> dict[str, Any]:
    """Read what ``--print_config`` prints."""
    with redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit, match="0"):
        train(args)
    config: dict[str, Any] = yaml.safe_load(out.getvalue())
    return config


def crashes(args: list[str], kind: type[Exception], line: str) -> None:
    """Check that a training ends in an error, and its traceback with a person's own line."""
    with pytest.raises(kind) as found:
        train(args)
    shown = "".join(traceback.format_exception(found.value))
    assert line in shown
    assert "jsonargparse/_typehints.py" not in shown.split("The above exception")[-1].split(line)[1]
    assert "Does not validate against" not in shown


OPTIONS = [
    "--model={}.Net",
    "--model={{class_path: {}.Net}}",
    "--data={}.Points",
    "--data.collate_fn={}.collate",
    "--trainer.callbacks+={}.Own",
    "--trainer.logger={}.Own",
    "--trainer.plugins+={}.Own",
    "--callbacks.checkpoint={}.Own",
]
ERRORS = [
    ("def broken(:", SyntaxError),
    ("{}['missing']", KeyError),
    ("import package_that_is_not_there", ModuleNotFoundError),
    ("from torch import no_such_name", ImportError),
    ("torch.no_such_name", AttributeError),
    ("raise ValueError('my own')", ValueError),
    ("int('x')", ValueError),
    ("torch.zeros(2) @ torch.zeros(3)", RuntimeError),
    ("assert 1 == 2", AssertionError),
    ("None + 1", TypeError),
]


@pytest.mark.parametrize(
    ("option", "line", "kind"),
    [
        *((option, *error) for option in OPTIONS for error in ERRORS[:2]),
        *((OPTIONS[0], *error) for error in ERRORS[2:]),
    ],
)
def test_error_in_a_module_is_shown(
    option: str, line: str, kind: type[Exception], write: Write, tmp_path: Path
) -> None:
    name = write(f"{HEAD}\n{line}\n{MODULE}")
    runs = tmp_path / "runs"
    crashes([*TINY, option.format(name), "--runs_dir", str(runs)], kind, line)
    assert not runs.exists()


def test_module_that_is_broken_in_a_config(write: Write, tmp_path: Path) -> None:
    name = write(f"{HEAD}\nx = [\n{MODULE}")
    config = tmp_path / "mine.yaml"
    config.write_text(f"model: {{class_path: {name}.Net}}")
    crashes(["--config", str(config)], SyntaxError, f"{name}.py")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "{}.Nett",
            "model: cannot import it: module '{}' has no attribute 'Nett'. Did you mean `Net`?",
        ),
        ("{}.Points", "model: `{}.Points` is no LightningModule."),
        ("{}.sub.Net", "model: cannot import it: module '{}' has no attribute 'sub'."),
    ],
)
def test_name_that_a_module_does_not_have(
    given: str, message: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write(HEAD + MODULE)
    fails(train, [*TINY, "--model", given.format(name)], message.format(name), capsys)


# Where in the module a line goes, and what it raises: never bad input.
HOOKS = {
    "Net.__init__": "        super().__init__()\n        layers",
    "Net.configure_optimizers": "        return torch.optim.SGD",
    "Net.training_step": '        self.log("train/loss"',
    "Net.validation_step": '        self.log("val/loss"',
    "Net.test_step": '        self.log("test/loss"',
    "Net.forward": "        return self.net(x)",
    "Points.__init__": "        self.batch_size,",
    "Points.train_dataloader": "        x = self.spread",
}


BUGS = [
    ("int('x')", ValueError),
    ("a, b = 1, 2, 3", ValueError),
    ("{}['missing']", KeyError),
    ("self.missing", AttributeError),
    ("int(float('inf'))", OverflowError),
    ("import package_that_is_not_there", ModuleNotFoundError),
    ("self.log('early', 1.0)", MisconfigurationException),
]


IN_HOOKS: list[tuple[str, str, type[Exception]]] = [
    *((hook, *bug) for hook in HOOKS for bug in BUGS[:1]),
    *(("Net.configure_optimizers", *bug) for bug in BUGS[1:]),
    ("Net.__init__", "raise RuntimeError('my own')", RuntimeError),
    ("Net.training_step", "raise ValueError('my own')", ValueError),
    ("Net.forward", "raise FileNotFoundError('my own')", FileNotFoundError),
]


# Each in one of the two places, the other among the slow tests.
@pytest.mark.parametrize(
    ("hook", "line", "kind", "is_in_package"),
    [
        pytest.param(
            *error, is_in_package, marks=[pytest.mark.slow] * (is_in_package != bool(number % 2))
        )
        for number, error in enumerate(IN_HOOKS)
        for is_in_package in (False, True)
    ],
)
def test_error_in_a_hook_is_shown(
    hook: str,
    line: str,
    kind: type[Exception],
    is_in_package: bool,
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside the project, and where its models and data are."""
    if is_in_package:
        project = SimpleNamespace(package="own", root=tmp_path, folder=tmp_path)
        monkeypatch.setattr(explain, "current", lambda: project)
        monkeypatch.setattr(explain, "MODELS_AND_DATA", [""])
    before = HOOKS[hook]
    indent = before[: len(before) - len(before.lstrip())]
    assert before in MODULE
    if "super" in before:
        own = before.replace("layers", f"{line}\n{indent}layers")
    else:
        own = f"{indent}{line}\n{before}"
    name = write(HEAD + MODULE.replace(before, own, 1))
    args = ["--model", f"{name}.Net", "--data", f"{name}.Points", "--runs_dir", str(tmp_path)]
    crashes([*args, "--trainer.max_epochs=1", "--callbacks.plots=null"], kind, line)


@pytest.mark.parametrize(
    ("owner", "before", "message"),
    [
        ("Net", "        layers", "model.hidden: 5 is odd."),
        ("Points", "        self.batch_size,", "data.hidden: 5 is odd."),
    ],
)
def test_what_a_constructor_refuses_is_bad_input(
    owner: str, before: str, message: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    check = "        raise ValueError('hidden: 5 is odd.')\n"
    name = write(HEAD + MODULE.replace(before, check + before, 1))
    fails(train, ["--model", f"{name}.Net", "--data", f"{name}.Points"], message, capsys)


def test_file_that_a_constructor_misses_is_bad_input(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    opens = "        open('/nowhere/points.csv')\n        self.batch_size,"
    name = write(HEAD + MODULE.replace("        self.batch_size,", opens, 1))
    message = "data: [Errno 2] No such file or directory: '/nowhere/points.csv'"
    fails(train, ["--model", f"{name}.Net", "--data", f"{name}.Points"], message, capsys)


def test_lightning_still_refuses_options(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a person's code asks for the steps of the run, which they decide."""
    steps = "        self.trainer.estimated_stepping_batches\n        return torch.optim.SGD"
    name = write(HEAD + MODULE.replace("        return torch.optim.SGD", steps, 1))
    args = ["--model", f"{name}.Net", "--data", f"{name}.Points", "--runs_dir", str(tmp_path)]
    for interval in ("500", "1.5"):
        wrong = ["--trainer.val_check_interval", interval]
        fails(train, [*args, *wrong], "trainer: …", capsys)


def trained(args: list[str], runs: Path) -> tuple[Path, dict[str, Any]]:
    """Train for a step; return the folder of the run, and its configuration."""
    short = ["--trainer.max_steps=1", "--callbacks.plots=null", "--runs_dir", str(runs)]
    assert train([*args, *short, "--run_name", "run"]) == 0
    (run,) = runs.glob("*/run")
    return run, resolved(run)


def test_model_without_a_config_stands_for_itself(write: Write, tmp_path: Path) -> None:
    name = write(HEAD + MODULE)
    run, config = trained([f"--model={name}.Net", f"--data={name}.Points"], tmp_path)
    assert run.parent.name == "net"
    assert config["model"]["init_args"] == {"num_features": 2, "hidden": 4}
    assert config["data"]["init_args"] == {"batch_size": 8, "spread": 1.0}
    assert config["callbacks"]["gradient_clipping"] is None
    assert config["trainer"]["accelerator"] == "auto"
    # The same name finds it again.
    (run / "metrics.json").unlink()
    again = [f"--model={name}.Net", f"--data={name}.Points", "--resume=auto"]
    assert train([*again, "--trainer.max_steps=3", "--runs_dir", str(tmp_path)]) == 0
    assert json.loads((run / "metrics.json").read_text())["steps"] == 3


@pytest.mark.parametrize("given", ["{}", "{{class_path: {}, init_args: {{hidden: 3}}}}"])
def test_model_with_loaders_needs_no_data(given: str, write: Write, tmp_path: Path) -> None:
    name = write(HEAD + MODULE)
    run, config = trained([f"--model={given.format(f'{name}.OwnLoaders')}"], tmp_path)
    assert run.parent.name == "own_loaders"
    assert config["data"] is None
    evaluate([str(run)])


def test_model_without_loaders_or_data(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write(HEAD + MODULE)
    message = (
        "data: missing, and Net has no train_dataloader. "
        f"Give --data, or a --config such as {DEFAULT_CONFIG}, whose data to use."
    )
    fails(train, [f"--model={name}.Net", "--runs_dir", str(tmp_path / "runs")], message, capsys)
    assert not (tmp_path / "runs").exists()


def test_arguments_of_another_class_are_dropped(write: Write, tmp_path: Path) -> None:
    """By an option, by a config laid over, and of a callback; what is given for the new one stays.

    ``num_features`` and ``val_batch_size`` are of the config's classes and of the new ones alike.
    """
    name = write(
        f"{HEAD}{MODULE}\nfrom src.callbacks import Checkpoint\n"
        "from tests.lightkeel.tiny import TinyData\n"
        "class Own(Checkpoint): ...\nclass Alike(TinyData): ..."
    )
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"model: {{class_path: {name}.Net, init_args: {{hidden: 3}}}}")
    args = [*TINY, "--model.num_features=7", "--config", str(overlay)]
    args += [f"--data={name}.Alike", "--data.shake=0.25"]
    args += [f"--callbacks.checkpoint={name}.Own", "--callbacks.early_stopping=null"]
    config = printed([*args, "--print_config"])
    assert config["model"] == {
        "class_path": f"{name}.Net",
        "init_args": {"num_features": 2, "hidden": 3},
    }
    data = config["data"]["init_args"]
    assert (data["shake"], data["val_batch_size"]) == (0.25, None)
    assert config["callbacks"]["checkpoint"]["init_args"]["monitor"] is None


def test_arguments_of_the_same_class_are_kept(write: Write) -> None:
    """By whichever path it is named."""
    name = write("from tests.lightkeel.tiny import TinyModel as Same")
    for args in (
        [*TINY, "--model=tests.lightkeel.tiny.TinyModel"],
        [*TINY, f"--model={name}.Same"],
    ):
        config = printed([*args, "--print_config"])
        assert config["model"]["init_args"]["widths"] == [6]
    given = DEFAULT.get("init_args", {}) if isinstance(DEFAULT, dict) else {}
    config = printed([f"--model={DEFAULT_MODEL}", "--print_config"])
    assert {name: config["model"]["init_args"][name] for name in given} == given


@pytest.mark.parametrize(
    ("args", "experiment"),
    [
        (["--model=my.OwnGAN2"], "own_gan2"),
        (["--model", "{class_path: my.Net, init_args: {a: 1}}"], "net"),
        (["--config", "overlays/bf16", "--model=my.Net"], "net"),
        (["--config", "overlays/bf16", *TINY], "tiny"),
        ([*TINY, "--model=my.Net"], "tiny"),
        ([f"--model={DEFAULT_MODEL}"], DEFAULT_CONFIG),
        (["--data=my.Points"], DEFAULT_CONFIG),
        ([], DEFAULT_CONFIG),
    ],
)
def test_name_of_the_experiment(args: list[str], experiment: str) -> None:
    assert resolve_configs(args)[1] == experiment


def test_epochs_without_a_config() -> None:
    assert resolve_configs(["--model=my.Net"])[0] == ["--trainer.max_epochs=10", "--model=my.Net"]
    steps = ["--model=my.Net", "--trainer.max_steps=5"]
    assert resolve_configs(steps)[0] == steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "resume"),
    [
        *(("options", "auto"), ("config", "run")),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("options", "run"), ("config", "auto"))
        ),
    ],
)
def test_resuming_with_the_same_command_adds_nothing(
    place: str, resume: str, write: Write, tmp_path: Path
) -> None:
    own = "class Own(Callback):\n    def __init__(self, number: int = 1):\n        self.n = number"
    name = write(
        f"{HEAD}\nfrom lightning.fabric.plugins import TorchCheckpointIO\n"
        "from lightning.pytorch.loggers import CSVLogger\n"
        "from lightkeel.runs.checkpoints import WholeCheckpointIO\n"
        "class IO(WholeCheckpointIO): ...\n"
        f"{own}\nclass Other(Own): ..."
    )
    added = [
        *(f"--trainer.callbacks+={name}.Own", "--trainer.callbacks.number=2"),
        *(f"--trainer.callbacks+={name}.Other", "--trainer.callbacks.number=3"),
        *(f"--trainer.logger+={name}.CSVLogger", f"--trainer.logger.save_dir={tmp_path}/csv"),
        f"--trainer.plugins+={name}.IO",
    ]
    if place == "config":
        callbacks = [
            {"class_path": f"{name}.{cls}", "init_args": {"number": number}}
            for cls, number in (("Own", 2), ("Other", 3))
        ]
        overlay = tmp_path / "overlay.yaml"
        overlay.write_text(yaml.safe_dump({"trainer": {"callbacks+": callbacks}}))
        added = ["--config", str(overlay), *added[4:]]
    args = [*TINY, *added, "--model.lr_scheduler=null", "--runs_dir", str(tmp_path / "runs")]
    run = tmp_path / "runs/tiny/run"
    assert train([*args, "--run_name", "run", "--trainer.max_epochs=1"]) == 0
    before = resolved(run)
    assert [part["init_args"]["number"] for part in before["trainer"]["callbacks"]] == [2, 3]
    (run / "metrics.json").unlink()
    again = args if resume == "auto" else args[len(TINY) :]
    again = [*again, "--resume", "auto" if resume == "auto" else str(run)]
    more = [f"--trainer.callbacks+={name}.Own", "--trainer.callbacks.number=4"]
    assert train([*again, *more, "--trainer.max_epochs=2"]) == 0
    after = resolved(run)
    assert [part["init_args"]["number"] for part in after["trainer"]["callbacks"]] == [2, 3, 4]
    for key in ("logger", "plugins"):
        assert after["trainer"][key] == before["trainer"][key]


OBJECTS = """
import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

class Mode(enum.Enum):
    A = 1
    B = 2

@dataclass
class Settings:
    lr: float = 0.01
    device: Any = torch.device("cpu")

class Objects(OwnLoaders):
    def __init__(
        self,
        device: torch.device = torch.device("cpu"),
        untyped=torch.device("cpu"),
        either: "str | torch.device" = torch.device("cpu"),
        maybe: Optional[torch.device] = torch.device("cpu"),
        activation: Callable = torch.nn.functional.relu,
        shrink: Callable = lambda x: x / 2,
        layers: list[torch.nn.Module] = [torch.nn.Identity()],
        settings: Settings = Settings(lr=0.02),
        weight=torch.ones(2),
        mode: Mode = Mode.A,
        path: Path = Path("a/b"),
        dtype: torch.dtype = torch.float32,
        widths: tuple[int, ...] = (1, 2),
    ):
        super().__init__()
        self.save_hyperparameters(ignore="layers")
        Objects.taken = {
            "activation": activation, "mode": mode.name, "path": path, "settings": settings,
            "device": (device, untyped, either, maybe), "shrink": shrink(1.0),
            "layers": layers, "weight": weight, "dtype": dtype,
        }
"""


@pytest.mark.slow
def test_objects_as_defaults_are_not_in_the_config(write: Write, tmp_path: Path) -> None:
    """What YAML can say is; the rest the class has by itself; all comes out the same again."""
    name = write(HEAD + MODULE + OBJECTS)
    given = [f"--model={name}.Objects", "--model.mode=B", "--model.settings.lr=0.5"]
    given += ["--model.activation=torch.nn.functional.gelu"]
    run, config = trained(given, tmp_path / "runs")
    text = (run / "config.yaml").read_text()
    assert config["model"]["init_args"] == {
        "activation": "torch.nn.functional.gelu",
        "settings": {"lr": 0.5},
        "mode": "B",
        "path": "a/b",
        "dtype": "torch.float32",
        "widths": [1, 2],
    }
    taken = sys.modules[name].Objects.taken
    repeat = ["--config", str(run / "config.yaml")]
    assert train([*repeat, "--runs_dir", str(tmp_path / "runs"), "--run_name", "again"]) == 0
    assert (run.with_name("again") / "config.yaml").read_text() == text
    again = sys.modules[name].Objects.taken
    same_objects = [again.pop("weight") is taken.pop("weight"), again == taken]
    assert same_objects == [True, True]
    evaluate([str(run), "--output", str(tmp_path / "metrics.json")])
    assert "test/loss" in json.loads((tmp_path / "metrics.json").read_text())
    assert printed([*given, "--print_config"])["model"] == config["model"]
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["mode"] == "B"
    assert "device" not in checkpoint["hyper_parameters"]
