import json
import math
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightkeel.callbacks import figures as plots
from lightkeel.callbacks.figures import Curves, Panel
from lightkeel.callbacks.plots import Plots
from lightkeel.runs import status
from src.train import main as train
from tests.lightkeel.commands import stop_in_step
from tests.lightkeel.conftest import TINY
from tests.lightkeel.tiny import TinyModel

ON = ["--callbacks.plots", "Plots"]  # off in `tiny.yaml`
HEADER = "step,epoch,lr,train/loss_step,train/loss_epoch,val/loss,test/loss\n"
NAN, INF = math.nan, math.inf


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for module in ("matplotlib", plots.__name__):  # of whoever calls matplotlib, too
            warnings.filterwarnings("error", module=module)
        yield


def lines(figure: Any, panel: int = 0) -> dict[str, Any]:
    """Lines of a figure by their labels: x and y."""
    drawn = figure.axes[panel].lines
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in drawn}


def pictures(run: Path) -> dict[str, tuple[int, int]]:
    """Width and height in pixels of each picture of a run."""
    files = sorted((run / "plots").iterdir())
    return {file.name: struct.unpack(">II", file.read_bytes()[16:24]) for file in files}


def write(folder: Path, *rows: str) -> Path:
    path = folder / "metrics.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def test_curves_are_in_epochs(tmp_path: Path) -> None:
    """Two epochs of four steps, with a validation within; the test has no place in curves."""
    path = write(
        tmp_path,
        *("1,0,0.1,8.0,,,", "1,0,,,,7.0,", "3,0,0.2,6.0,,,", "3,0,,,,5.0,"),
        *("3,0,,,4.0,,", "5,1,0.3,nan,,,", "7,1,,,,3.0,", "7,1,,,2.0,,", "8,2,,,,,1.0"),
    )
    curves = plots.read_curves(path)
    assert curves.x_label == "epoch"
    assert curves.lines["lr"] == ([0.5, 1, 1.5], [0.1, 0.2, 0.3])
    figures = plots.curve_figures("Model", curves)
    assert list(figures) == ["loss", "lr"]
    found = lines(figures["loss"])
    assert list(found) == ["train, by step", "train, last 2", "val, last 3"]
    assert found["train, last 2"] == ([1, 2], [4, 2])
    assert found["val, last 3"] == ([0.5, 1, 2], [7, 5, 3])
    x, y = found["train, by step"]
    assert x == [0.5, 1, 1.5]
    assert y[:2] == [8, 6]
    assert math.isnan(y[2])
    axes: Any = figures["loss"].axes[0]
    assert axes.get_title() == "Model: loss"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    assert axes.get_xlim()[0] == 0
    assert lines(figures["lr"]) == {"lr, last 0.3": ([0.5, 1, 1.5], [0.1, 0.2, 0.3])}


def test_curves_of_steps_alone(tmp_path: Path) -> None:
    curves = plots.read_curves(write(tmp_path, "1,0,,8.0,,,", "3,0,,6.0,,,"))
    assert curves.x_label == "step"
    (figure,) = plots.curve_figures("Model", curves).values()
    assert lines(figure) == {"train, last 6": ([2, 4], [8, 6])}


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["train_loss_step", "train_loss_epoch", "val_loss"], ["train, by step", "train", "val"]),
        (["train_loss", "valid_loss"], ["train", "valid"]),
        (["val/loss"], ["val"]),
    ],
)
def test_names_that_others_give(names: list[str], labels: list[str]) -> None:
    points = {name: ([1.0, 2.0], [3.0, 2.0]) for name in names}
    figures = plots.curve_figures("M", Curves("step", points))
    assert list(figures) == ["loss"]
    assert [name.removesuffix(", last 2") for name in lines(figures["loss"])] == labels


def test_a_single_point_is_no_line() -> None:
    curves = Curves("epoch", {"train/loss_step": ([0.5], [2.0]), "train/loss": ([1.0], [1.5])})
    assert list(lines(plots.curve_figures("M", curves)["loss"])) == ["train, last 1.5"]


def test_other_readings_are_no_curves() -> None:
    names = ("memory_mib", "samples_per_s", "momentum", "test/loss", "value_loss", "hp_metric")
    assert plots.curve_figures("M", Curves("step", {name: ([1], [2]) for name in names})) == {}


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1, 99], "linear"),
        ([1, 101], "log"),
        ([-1, 101], "linear"),
        ([0, 101], "linear"),
        ([1, NAN, 101, INF], "log"),
    ],
)
def test_scale(values: list[float], scale: str) -> None:
    curves = Curves("epoch", {"train/loss": (list(range(len(values))), values)})
    (figure,) = plots.curve_figures("M", curves).values()
    assert figure.axes[0].get_yscale() == scale


def test_gradient_norm_beside_its_limit() -> None:
    curves = Curves("epoch", {"grad/norm": ([1, 2], [0.5, 3])})
    found = lines(plots.curve_figures("M", curves, max_norm=0.25)["grad_norm"])
    assert found == {"clip at 0.25": ([0, 1], [0.25, 0.25]), "norm, last 3": ([1, 2], [0.5, 3])}
    assert list(lines(plots.curve_figures("M", curves)["grad_norm"])) == ["norm, last 3"]


def test_each_group_has_its_rate() -> None:
    curves = Curves("epoch", {"lr/head": ([1], [0.2]), "lr/rest": ([1], [0.1])})
    found = lines(plots.curve_figures("M", curves)["lr"])
    assert list(found) == ["lr/head, last 0.2", "lr/rest, last 0.1"]


def test_confusion_in_percent() -> None:
    matrix = torch.tensor([[3, 1, 0], [0, 0, 2], [0, 0, 0]])
    figure: Any = plots.confusion_figure("M", matrix, ["cat", "dog", "owl"])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["75", "25", "0", "0", "0", "100", *"000"]
    assert [text.get_position() for text in axes.texts][:2] == [(0, 0), (1, 0)]  # column, row
    assert axes.get_title() == "M: 50.0 % of 6 test samples right"
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == ["cat", "dog", "owl"]


def test_confusion_of_many_classes(tmp_path: Path) -> None:
    """Without numbers, and with every fifth name."""
    labels = [f"class {number}" for number in range(100)]
    figure: Any = plots.confusion_figure("M", torch.eye(100).long(), labels)
    plots.save({"confusion": figure}, tmp_path)
    axes = figure.axes[0]
    assert list(axes.texts) == []
    assert [tick.get_text() for tick in axes.get_yticklabels()] == labels[::5]


def test_labels_of_classes() -> None:
    names = ["naïve", "猫", "$x$", "a\nb", "", "Donaudampfschiffahrt"]
    expected = ["naïve", "1", r"\$x\$", "3", "4", "Donaudampfsch…"]
    assert plots.class_labels(names, 6) == expected
    alike = [f"a class with number {number}" for number in range(2)]
    assert plots.class_labels([*alike, "b"], 3) == ["0", "1", "b"]
    assert plots.class_labels(names, 3) == plots.class_labels(None, 3) == ["0", "1", "2"]


def test_worst_in_rows() -> None:
    images = torch.arange(5 * 2 * 2 * 3).reshape(5, 2, 2, 3).byte()
    figure: Any = plots.worst_figure("M", images, list("abcde"))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == list("abcde")
    assert [image.get_array().tolist() for image in axes.images] == images.tolist()
    corners = [tuple(image.get_extent()[::3]) for image in axes.images]  # left, top
    assert corners == [(0, 0), (1.2, 0), (2.4, 0), (pytest.approx(3.6), 0), (0, 1.65)]
    assert {image.get_interpolation() for image in axes.images} == {"nearest"}


def test_fit_in_panels() -> None:
    ends = torch.tensor([0.0, 2.0])
    panel = Panel(
        "x", "y", (torch.tensor([1.0]), torch.tensor([3.0])), {"fitted": (ends, 2 * ends)}
    )
    figure: Any = plots.fit_figure("M", [panel, panel])
    for place in (0, 1):
        assert lines(figure, place) == {"data": ([1], [3]), "fitted": ([0, 2], [0, 4])}


@pytest.mark.parametrize(
    "lines",
    [
        {"train/loss": ([1, 2], [NAN, NAN]), "val/loss": ([1, 2], [INF, -INF])},
        {"train/loss": ([1], [2.0]), "lr": ([1], [0.0]), "grad/norm": ([1], [0.0])},
        {"train/loss": ([1, 2, 3], [1e308, -1e308, 5.0])},
        {"train/loss": ([1, 2], [1e-320, 1e29])},
        {"train/$a$ 猫/\n": ([1, 2], [1.0, 2.0]), "lr/$b$": ([1], [1.0])},
        {f"lr/{number}": ([1, 2], [number, 1.0]) for number in range(20)},
    ],
)
def test_hard_curves_are_drawn(lines: Any, tmp_path: Path) -> None:
    figures = plots.curve_figures("$M$ 猫" * 30, Curves("epoch", lines), max_norm=1e-3)
    plots.save(figures, tmp_path / "plots")
    assert len(pictures(tmp_path)) == len(figures) > 0


@pytest.mark.parametrize("labels", [["猫", "$x", "a$b$c" * 9], ["a\\frac{", "%", "_"]])
def test_hard_names_are_drawn(labels: list[str], tmp_path: Path) -> None:
    matrices = {"some": torch.eye(3).long(), "none": torch.zeros(3, 3).long()}
    names = plots.class_labels(labels, 3)
    figures = {name: plots.confusion_figure("M", m, names) for name, m in matrices.items()}
    images = torch.zeros(3, 1, 1, 3).byte()
    plots.save({**figures, "worst": plots.worst_figure("M", images, names)}, tmp_path / "plots")
    assert list(pictures(tmp_path)) == ["none.png", "some.png", "worst.png"]


def test_a_run_leaves_pictures(tmp_path: Path) -> None:
    assert train([*TINY, *ON, "--runs_dir", str(tmp_path), "--run_name", "run"]) == 0
    wide = (720, 450)
    assert pictures(tmp_path / "tiny" / "run") == {
        "acc.png": wide,
        "confusion.png": (720, 648),
        "grad_norm.png": wide,
        "loss.png": wide,
        "lr.png": wide,
    }


def test_a_dry_run_leaves_none(tmp_path: Path) -> None:
    args = [*TINY, *ON, "--trainer.fast_dev_run", "true", "--runs_dir", str(tmp_path)]
    assert train(args) == 0
    assert not list(tmp_path.glob("*/*/plots"))


@pytest.mark.slow
def test_whole_curves_of_a_run_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [*TINY, *ON, "--runs_dir", str(tmp_path), "--trainer.max_epochs", "3"]
    assert train([*args, "--run_name", "whole"]) == 0
    with monkeypatch.context() as patch:
        stop_in_step(TinyModel, 4, patch)
        with pytest.raises(SystemExit):
            train([*args, "--run_name", "parts"])
    whole, parts = (tmp_path / "tiny" / name for name in ("whole", "parts"))
    assert not (parts / "plots").exists()
    assert train([*args, "--resume", str(parts)]) == 0
    assert list(pictures(parts)) == list(pictures(whole))
    for name in pictures(whole):  # to the last pixel
        assert (parts / "plots" / name).read_bytes() == (whole / "plots" / name).read_bytes()


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["--trainer.limit_val_batches", "0"], ["acc", "confusion", "grad_norm", "loss", "lr"]),
        pytest.param(
            ["--trainer.limit_test_batches", "0"],
            ["acc", "grad_norm", "loss", "lr"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--trainer.log_every_n_steps", "0"],
            ["acc", "confusion", "loss"],
            marks=pytest.mark.slow,
        ),
        (["--trainer.logger", "false", "--callbacks.lr_monitor", "null"], ["confusion"]),
    ],
)
def test_runs_that_lack_something(args: list[str], names: list[str], tmp_path: Path) -> None:
    quick = ["--trainer.max_epochs", "1", "--callbacks.checkpoint.monitor", "null"]
    quick += ["--callbacks.early_stopping", "null"]
    assert train([*TINY, *ON, *quick, *args, "--runs_dir", str(tmp_path)]) == 0
    (run,) = tmp_path.glob("*/*")
    assert list(pictures(run)) == [f"{name}.png" for name in names]


class Foreign(LightningModule):
    """Somebody else's model: a name for each step's loss, its own data, no test."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).square().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch).square().mean())

    def train_dataloader(self) -> Any:
        return DataLoader(torch.ones(8, 2), batch_size=2)  # type: ignore[arg-type]

    val_dataloader = train_dataloader

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_model_of_somebody_else(tmp_path: Path) -> None:
    config = tmp_path / "foreign.yaml"
    config.write_text(
        "model: tests.lightkeel.test_plots.Foreign\n"
        "trainer: {max_epochs: 2, accelerator: cpu, log_every_n_steps: 1}\n"
    )
    assert train(["--config", str(config), "--runs_dir", str(tmp_path)]) == 0
    (run,) = tmp_path.glob("foreign/*")
    assert list(pictures(run)) == ["loss.png", "lr.png"]
    figures = plots.curve_figures("M", plots.read_curves(run / "metrics.csv"))
    (_, (train_x, _)), (_, (val_x, _)) = lines(figures["loss"]).items()
    assert train_x == [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    assert val_x == [1, 2]


def test_a_run_is_done_when_its_pictures_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while drawing, it is gone on with; where drawing fails, nothing else is lost."""
    seen = []

    def draw(self: Plots, trainer: Any, folder: Path, panels: Any) -> None:
        seen.append((folder / "metrics.json").exists())
        raise RuntimeError("no pictures")

    monkeypatch.setattr(Plots, "draw", draw)
    args = [*TINY, *ON, "--runs_dir", str(tmp_path), "--run_name", "run"]
    assert train(args) == 0
    assert seen == [False]
    assert "test/acc" in json.loads((tmp_path / "tiny/run/metrics.json").read_text())
    assert status.look(tmp_path / "tiny/run").state == "done"
