"""What a beginner types first is answered with what to type, at once or by the parser, alike."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from lightkeel.errors.bad_input import InputError, readable
from lightkeel.options import cache, cli
from lightkeel.options.cache import Known
from lightkeel.options.cli import ProjectCLI
from lightkeel.options.guesses import OTHER_TOOLS, WORDS, plain
from lightkeel.options.names import check_options
from lightkeel.options.parser import Parser, learn
from tests.lightkeel.commands import experiment

# What is typed for an option, and what was meant: for the default experiment.
MEANT = {
    "lr 0.01": "--model.optimizer.lr",
    "learning_rate 0.01": "--model.optimizer.lr",
    "learning-rte 0.01": "--model.optimizer.lr",
    "optimizer.lr 0.1": "--model.optimizer.lr",
    "optim.lr=0.1": "--model.optimizer.lr",
    "epochs 3": "--trainer.max_epochs",
    "num_epochs 3": "--trainer.max_epochs",
    "n_epochs=3": "--trainer.max_epochs",
    "max_epochs 3": "--trainer.max_epochs",
    "max-epochs 3": "--trainer.max_epochs",
    "maxEpochs 3": "--trainer.max_epochs",
    "steps 3": "--trainer.max_steps",
    "batch_size 64": "--data.batch_size",
    "batchsize 64": "--data.batch_size",
    "bach_size 64": "--data.batch_size",
    "bs 64": "--data.batch_size",
    "num_workers 4": "--data.num_workers",
    "data_dir x": "--data.data_dir` (of CIFAR10DataModule)",
    "dataset cifar10": "--data",
    "seed 3": "--seed_everything` or `--data.seed",
    "gpus 2": "--trainer.accelerator gpu --trainer.devices N",
    "devices 2": "--trainer.devices",
    "device cuda": "--trainer.accelerator",
    "cuda": "--trainer.accelerator gpu",
    "no-cuda": "--trainer.accelerator cpu",
    "optimizer Adam": "--model.optimizer.name",
    "optim Adam": "--model.optimizer.name",
    "scheduler StepLR": "--model.lr_scheduler.name",
    "momentum 0.9": "--model.optimizer.momentum",
    "wd 0.1": "--model.optimizer.weight_decay",
    "weight_decay 0.1": "--model.optimizer.weight_decay",
    "dropout 0.1": "--model.dropout` (of SimpleCNN)",
    "image_size 32": (
        "--model.image_size_px` (of FastCNN and 1 more) or "
        "`--data.image_size_px` (of ImageFolderDataModule and 1 more)"
    ),
    "arch SimpleCNN": "--model",
    "precision 16": "--trainer.precision",
    "amp": "--trainer.precision 16-mixed",
    "fp16": "--trainer.precision 16-mixed",
    "bf16": "--trainer.precision bf16-mixed",
    "name first": "--run_name` or `--model.optimizer.name",
    "experiment cifar10": "--config",
    "output_dir out": "--runs_dir",
    "checkpoint last.ckpt": "--resume` or `--callbacks.checkpoint",
    "ckpt last.ckpt": "--resume",
    "ckpt_path last.ckpt": "--resume",
    "load last.ckpt": "--resume",
    "debug": "--config overlays/debug",
    "dry_run": "--trainer.fast_dev_run true",
    "wandb": "--config overlays/wandb",
    "verbose": "--callbacks.progress.interval_s` or `--callbacks.early_stopping.verbose",
    "patience 3": "--callbacks.early_stopping.patience",
    "gradient_clipping.max_norm 1": "--callbacks.gradient_clipping.max_norm",
    "monitor val/loss": "--callbacks.checkpoint.monitor` or `--callbacks.early_stopping.monitor",
    "mode max": (
        "--callbacks.compile.mode` or `--callbacks.checkpoint.mode` or "
        "`--callbacks.early_stopping.mode"
    ),
}
LINEAR, CNN = experiment("linear_regression"), experiment("cifar10")


def none(name: str, hint: str, whose: str = "the command line") -> str:
    ends = "" if hint.endswith(")") else "`"
    return f"{name}: {whose} has no such option. Did you mean `{hint}{ends}?"


# What a command is given, in place of an option that there is, and the answer.
ANSWERS: list[tuple[str, str]] = [
    *((f"--{typed}", none(typed.split()[0].split("=")[0], to)) for typed, to in MEANT.items()),
    ("-lr 0.1", none("lr", "--model.optimizer.lr")),
    ("lr=0.1", none("lr", "--model.optimizer.lr")),
    ("--xyz 3", "xyz: the command line has no such option. Available: callbacks, config, data, m…"),
    ("--trainable 1", "trainable: the command line has no such option. Available: callbacks, co…"),
    ("--model.lr 1", none("model.lr", "--model.optimizer.lr", "LinearRegression")),
    ("--model.batchsize 9", none("model.batchsize", "--data.batch_size", "LinearRegression")),
    ("--model.dropout 0", none("model.dropout", "--model.dropout` (of SimpleCNN)", "LinearR…")),
    ("--trainer.lr 1", none("trainer.lr", "--model.optimizer.lr", "trainer")),
    (
        "--trainer.gpus 2",
        none("trainer.gpus", "--trainer.accelerator gpu --trainer.devices N", "trainer"),
    ),
    ("--trainer.device 2", none("trainer.device", "devices", "trainer")),
    ("cifar10", "cifar10: is no option. Give the experiment as --config cifar10."),
    ("cifr10", "cifr10: is no option. Give the experiment as --config cifar10."),
    ("configs/cifar10.yaml", "configs/cifar10.yaml: is no option. Give the experiment as --con…"),
    ("train cifar10", "train: is no option. Give the experiment as --config cifar10."),
    ("fit", "fit: is no option. Options begin with --, as in --trainer.max_epochs 5."),
    (
        "trainer.max_steps=3",
        "trainer.max_steps=3: is no option. Options begin with --, as in --trainer.max_steps=3.",
    ),
    (
        "--callbacks.checkpoint Chekpoint",
        "callbacks.checkpoint: there is no class `Chekpoint`. Did you mean `Checkpoint`?",
    ),
    (
        "--callbacks.layer_check true",
        "callbacks.layer_check: there is no class `true`. Available: LayerCheck, null.",
    ),
]
QUICK = {"--lr 0.01", "-lr 0.1", "train cifar10", *(c[0] for c in ANSWERS if "callb" in c[0])}
# Values, which the parser alone knows; for another experiment.
VALUES = [
    (
        "--model.optimizer Adam",
        "model.optimizer: `Adam` has the wrong type. Give dict or null.\n"
        "  Did you mean `--model.optimizer.name Adam`?",
    ),
    (
        "--model.lr_scheduler StepLR",
        "model.lr_scheduler: `StepLR` has the wrong type. Give dict or null.\n"
        "  Did you mean `--model.lr_scheduler.name StepLR`?",
    ),
    (
        "--model.activation null",
        "model.activation: `null` is not a choice. Available: identity, relu.",
    ),
    (
        "--model.activation None",
        "model.activation: `None` is not a choice. Available: identity, relu.",
    ),
    (
        "--trainer.precision fp16",
        "trainer.precision: `fp16` is not a choice. Did you mean `16-mixed`?",
    ),
]


@pytest.fixture(scope="module")
def known() -> Known:
    """What the parser knows."""
    found: list[Known] = []

    class Asked(ProjectCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            assert isinstance(parser, Parser)
            found.append(learn(parser, self.table))
            raise StopIteration

    with pytest.raises(StopIteration):
        Asked([])
    return found[0]


@pytest.fixture
def commands(
    known: Known, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """Asks at once, from the cache, or the parser, which does not have to learn names again."""
    monkeypatch.setattr(cache, "read", lambda: known)
    monkeypatch.setattr(cli, "learn", lambda *parser: known)

    def refuse(args: list[str], answer: str, way: Callable[[list[str]], object]) -> None:
        with pytest.raises(SystemExit, match="2"), readable():
            way(args)
        told = capsys.readouterr().err
        assert told.startswith(f"error: {answer.split('…')[0]}")
        assert "…" in answer or told == f"error: {answer}\n"
        assert len(told.splitlines()) <= 3
        assert max(map(len, told.splitlines())) <= 200

    return refuse


def at_once(args: list[str]) -> None:
    check_options(args)


def by_parser(args: list[str]) -> None:
    ProjectCLI(args, training=False)


@pytest.mark.parametrize(
    ("typed", "answer", "way"),
    [
        *(pytest.param(*case, at_once, id=case[0]) for case in ANSWERS if "callb" not in case[0]),
        *(
            pytest.param(
                *(*case, by_parser),
                id=f"{case[0]} by the parser",
                marks=() if case[0] in QUICK else pytest.mark.slow,
            )
            for case in ANSWERS
        ),
    ],
)
def test_guesses(
    typed: str, answer: str, way: Callable[..., None], commands: Callable[..., None]
) -> None:
    commands([*LINEAR, *typed.split()], answer, way)


@pytest.mark.parametrize(("typed", "answer"), VALUES)
def test_guesses_of_values(typed: str, answer: str, commands: Callable[..., None]) -> None:
    commands([*CNN, *typed.split()], answer, by_parser)


@pytest.mark.parametrize("way", [at_once, by_parser])
def test_keys_of_a_config(
    way: Callable[..., None], tmp_path: Path, commands: Callable[..., None]
) -> None:
    """They are named as in a file; the classes that come after them count too."""
    file = tmp_path / "mine.yaml"
    for text, answer in {
        "lr: 0.1": none("lr", "model.optimizer.lr"),
        "optimizer: {lr: 0.1}": none("optimizer.lr", "model.optimizer.lr"),
        "dropout: 0.5": none("dropout", "model.dropout"),
    }.items():
        file.write_text(text)
        commands(["--config", str(file), *CNN], answer, way)


def test_what_is_meant_is_there(tmp_path: Path, commands: Callable[..., None]) -> None:
    """Of a model without an optimizer's options nothing is promised; of many, three are named."""
    for args in (["--model", "LightningModule"], [*LINEAR, "--model", "LightningModule"]):
        for word in ("lr", "wd"):
            answer = f"{word}: the command line has no such option. Available: callbacks, …"
            commands([*args, f"--{word}", "1"], answer, at_once)
    file = tmp_path / "mine.yaml"
    file.write_text("trainer: {logger: {class_path: CSVLogger, init_args: {name: a}}}")
    three = "--run_name` or `--model.optimizer.name` or `--model.lr_scheduler.name"
    commands([*CNN, "--config", str(file), "--name", "a"], none("name", three), at_once)


@pytest.mark.usefixtures("commands")
def test_words_of_other_tools(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is meant one way, and what is meant is an option with a value that it takes."""
    words = [word for line in OTHER_TOOLS.values() for word in line.split()]
    assert len(words) == len(WORDS)
    assert words == [plain(word) for word in words]
    targets = OTHER_TOOLS.keys() - {"config"}  # which alone needs a name
    tokens = [f"--{target}".replace(" N", " 2").split() for target in targets]
    for given in tokens:
        check_options([*CNN, *given])
    valued = [token for given in tokens if len(given) > 1 for token in given]
    with pytest.raises(SystemExit, match="0"):
        ProjectCLI([*CNN, *valued, "--print_config"], training=False)
    config = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert config["fast_dev_run"] is True
    assert config["enable_progress_bar"] is False
    with pytest.raises(InputError, match=r"callbacks.gradient_clipping.max_nor: Gradient"):
        check_options([*CNN, "--callbacks.gradient_clipping.max_nor"])
