"""What a person is shown before anything is trained: one page, the choices, options of a class."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightkeel.options import cache
from lightkeel.options.cache import Known
from lightkeel.options.overview import CHANGED, MORE, choices, first_page
from lightkeel.project import Project, current
from src.train import main as train
from tests.lightkeel.commands import experiment

CNN, LINEAR = experiment("cifar10"), experiment("linear_regression")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A project of as many experiments as a test gives it, at work."""
    before = current()
    (tmp_path / "configs/overlays").mkdir(parents=True)
    Project("own", default_config="first", root=tmp_path)
    yield tmp_path / "configs"
    before.use()


def test_first_page(project: Path) -> None:
    (project / "first.yaml").write_text(
        "# The first of all. Second sentence.\n"
        "model: {class_path: A, init_args: {optimizer: {name: SGD, lr: 0.05}}}\n"
        "data.batch_size: 32\ntrainer: {max_epochs: 10}\nseed_everything: 3\n"
    )
    (project / "second.yaml").write_text(f"# About {'words ' * 20}\ntrainer: {{}}\n")
    (project / "third.yaml").write_text("trainer: {}\n# no comment on top\n")
    page = first_page(["--help"], "Train a model.").replace(current().command("train"), "train")
    head, _, more = page.partition("\nMore:\n")
    assert head == (
        "train [--config EXPERIMENT] [--OPTION VALUE ...]\n"
        "\n"
        "Train a model.\n"
        "\n"
        "Experiments, files in configs/ (default: first):\n"
        "  first   The first of all.\n"
        "  second  About words words words words words words words words words words ...\n"
        "  third\n"
        "\n"
        "Options that are changed most, with what first has:\n"
        "  --trainer.max_epochs 10     passes over the training data\n"
        "  --data.batch_size 32        samples in a step, on all devices together\n"
        "  --model.optimizer.name SGD  a class of torch.optim\n"
        "  --model.optimizer.lr 0.05   learning rate\n"
        "  --trainer.accelerator       cpu, gpu, ... (default: the best there is)\n"
        "  --trainer.devices           how many of them\n"
        "  --trainer.precision         such as bf16-mixed, faster on most GPUs\n"
        "  --seed_everything 3         of weights, order and changes (default: 0)\n"
        "  --run_name                  folder of the run (default: the time)\n"
        "  --resume                    a run's folder, `last` or `auto`\n"
    )
    assert [line.split("  ")[1] for line in more.splitlines()] == [*MORE]
    # Of a model without an optimizer, and of an overlay's value that wins.
    (project / "overlays/more.yaml").write_text("trainer: {devices: 4}\n")
    page = first_page(["--config", "third", "-h", "--config", "overlays/more"], "Train.")
    assert "\n  --trainer.devices 4    how many of them\n" in page
    assert "with what third has:\n  --trainer.max_epochs " in page
    assert "--model.optimizer" not in page


def test_first_page_fits_a_screen(project: Path) -> None:
    """However many experiments there are, and however long their names are."""
    for number in range(30):
        (project / f"experiment_{number:02}_{'x' * 20}.yaml").write_text(f"# {'word ' * 30}\n")
    (project / "first.yaml").write_text("model.optimizer: {name: SGD, lr: 1}\ndata.batch_size: 1")
    lines = first_page(["-h"], "Train a model. " * 8).splitlines()
    assert len(lines) <= 40
    # But for the first, which is how the command is started.
    assert max(map(len, lines[1:])) <= 80
    assert "  ..." in [line.partition("  and 19 more, see --list")[0].rstrip() for line in lines]


def test_choices(project: Path) -> None:
    (project / "first.yaml").write_text("# The first.\n")
    (project / "overlays/debug.yaml").write_text("# To find a fault.\n")
    listed = {"model": {"Net": "A network."}, "data": {}}
    listed |= {"callbacks.stop": {"Stop": "Stop early."}, "callbacks.plots": {"Plots": ""}}
    assert choices(Known([], {}, listed)) == (
        "Experiments (--config NAME):\n"
        "  first  The first.\n"
        "\n"
        "Laid over an experiment (a further --config NAME):\n"
        "  overlays/debug  To find a fault.\n"
        "\n"
        "Models (--model NAME):\n"
        "  Net  A network.\n"
        "\n"
        "Callbacks (--callbacks.NAME.OPTION VALUE, --callbacks.NAME null: off):\n"
        "  stop   Stop early.\n"
        "  plots\n"
    )


def shown(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="0"):
        train(args)
    return capsys.readouterr().out


def test_list_by_the_parser(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where names are not known yet; the project's own and the library's, each with its line."""
    monkeypatch.setattr(cache, "read", lambda: None)
    lines = shown(["--list"], capsys).splitlines()
    for line in (
        "SimpleCNN         Convolution, pooling, ... , two linear layers; cross-entropy.",
        "TableDataModule                Serve rows of a CSV, Parquet or npz file: x (B, F) float32,"
        " y (B,) float32 or int64.",
        "gradient_clipping      Limit gradients before each step.",
        "plots                  Draw pictures when the run has ended.",
    ):
        assert f"  {line}" in lines


def test_all_options(capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(["--help", "all"], capsys)
    assert "Lightning Trainer command line tool" not in page
    assert len(page.splitlines()) > 400
    for name in [*CHANGED, "callbacks.plots"]:
        if not name.startswith(("model.", "data.")):
            assert f"\n  --{name} " in page
    assert f"usage: {current().command('train')} " in page


@pytest.mark.parametrize(
    ("args", "option"),
    [
        ([*CNN, "--model.help"], "model.label_smoothing"),
        (["--model.help", *CNN], "model.label_smoothing"),
        (["--model.help", "MLP", *CNN], "model.num_features"),
        ([*CNN, "--model=MLP", "--model.help"], "model.num_features"),
        ([*LINEAR, "--data.help"], "data.noise_std"),
        ([*LINEAR, "--data.help=TableDataModule"], "data.separator"),
        ([*LINEAR, "--callbacks.checkpoint.help"], "callbacks.checkpoint.every_n_steps"),
        (
            ["--callbacks.layer_check.help", *LINEAR, "--config", "overlays/debug"],
            "callbacks.layer_check.gradients",
        ),
    ],
    ids=str,
)
def test_options_of_the_class_that_is_chosen(
    args: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = shown(args, capsys)
    assert f"\n  --{option} " in page
    assert not [line for line in page.splitlines() if line.startswith("  --trainer")]
