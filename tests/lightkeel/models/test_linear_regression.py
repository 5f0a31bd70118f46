import csv
import json
import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from lightkeel.callbacks import linear_fit
from lightkeel.callbacks.figures import Panel
from lightkeel.callbacks.plots import Plots
from src.models import LinearRegression
from src.train import main as train
from tests.lightkeel.commands import experiment
from tests.lightkeel.fitting import Given, fit, trainer
from tests.lightkeel.soak import survives_kills

EXPERIMENT = experiment("linear_regression")
# With w = (0.5, -0.5), b = 1 both predictions are 0.5, the errors -1.5 and 0.5.
INPUTS, TARGETS = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([2.0, 0.0])


class Known(Given):
    """Data that knows its weights."""

    true_weights = torch.tensor([0.6, -0.2])
    true_bias = torch.tensor(0.875)


def layer(model: LinearRegression) -> nn.Linear:
    """The linear layer: weight (1, F), bias (1,)."""
    found = model.network.get_submodule("0")
    assert isinstance(found, nn.Linear)
    return found


def shown(made: Trainer, model: LinearRegression, data: Given) -> list[Panel]:
    """Test a model, and return what its picture shows."""
    made.test(model, datamodule=data, verbose=False)
    (plots,) = (part for part in made.callbacks if isinstance(part, Plots))  # type: ignore[attr-defined]
    return linear_fit.panels(made, plots.samples)


def build() -> LinearRegression:
    model = LinearRegression(num_features=2, optimizer={"name": "SGD", "lr": 0.1})
    with torch.no_grad():
        layer(model).weight.copy_(torch.tensor([[0.5, -0.5]]))
        layer(model).bias.fill_(1.0)
    return model


def test_one_step_follows_the_gradient(tmp_path: Path) -> None:
    model = build()
    made = fit(tmp_path, model, Given(INPUTS, TARGETS))
    assert float(made.callback_metrics["train/loss"]) == (1.5**2 + 0.5**2) / 2
    # Mean of 2 * error * x: (-3 * 1 + 1 * 3) / 2 = 0, (-3 * 2 + 1 * 4) / 2 = -1; bias: -1.
    assert layer(model).weight[0].tolist() == pytest.approx([0.5, -0.4])
    assert layer(model).bias.tolist() == pytest.approx([1.1])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_test_metrics(tmp_path: Path, batch_size: int) -> None:
    data = Known(INPUTS, TARGETS, batch_size=batch_size)
    (found,) = trainer(tmp_path).test(build(), datamodule=data, verbose=False)
    assert found == pytest.approx(
        {
            "test/loss": 1.25,
            "test/r2": 1 - 2.5 / 2,  # squared errors 2.5, squared distances from the mean 2
            "test/weight_error": 0.3,
            "test/bias_error": 0.125,
        }
    )


def test_without_a_known_truth_there_is_no_error_of_weights(tmp_path: Path) -> None:
    (found,) = trainer(tmp_path).test(build(), datamodule=Given(INPUTS, TARGETS), verbose=False)
    assert found == pytest.approx({"test/loss": 1.25, "test/r2": -0.25})


def test_fitted_line_beside_the_true_one(tmp_path: Path) -> None:
    """The least and the greatest x are 1 and 3; w = 2 and b = 1 where the truth is -1 and 0.5."""
    model = LinearRegression(num_features=1)
    with torch.no_grad():
        layer(model).weight.fill_(2.0)
        layer(model).bias.fill_(1.0)
    data = Known(torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([6.0, 3.5, 5.0]), batch_size=2)
    data.true_weights, data.true_bias = torch.tensor([-1.0]), torch.tensor(0.5)
    made = trainer(tmp_path, Plots())
    for _ in range(2):  # the second time anew
        (panel,) = shown(made, model, data)
        assert (panel.x_label, panel.y_label) == ("x1", "y")
        assert [values.tolist() for values in panel.points] == [[3, 1, 2], [6, 3.5, 5]]
        assert {name: [x.tolist(), y.tolist()] for name, (x, y) in panel.lines.items()} == {
            "fitted": [[1, 3], [3, 7]],
            "true": [[1, 3], [-0.5, -2.5]],
        }


def test_of_two_features_each_has_a_panel(tmp_path: Path) -> None:
    """Of y = 2 the model leaves 2 + 0.5 * 2 = 3 beside x1 and 2 - 0.5 * 1 = 1.5 beside x2."""
    first, second = shown(trainer(tmp_path, Plots()), build(), Known(INPUTS, TARGETS))
    assert (first.x_label, first.y_label) == ("x1", "y - w2 x2")
    assert (second.x_label, second.y_label) == ("x2", "y - w1 x1")
    assert [values.tolist() for values in first.points] == [[1, 3], [3, 2]]
    assert [values.tolist() for values in second.points] == [[2, 4], [1.5, -1.5]]
    assert first.lines["fitted"][1].tolist() == [1.5, 2.5]
    assert first.lines["true"][1].tolist() == pytest.approx([1.475, 2.675])
    assert second.lines["fitted"][1].tolist() == [0, -1]


def test_of_more_features_predictions_are_shown(tmp_path: Path) -> None:
    model = LinearRegression(num_features=3)
    with torch.no_grad():
        layer(model).weight.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
        layer(model).bias.fill_(0.5)
    data = Given(torch.eye(3), torch.tensor([1.0, 2.0, 4.0]))
    (panel,) = shown(trainer(tmp_path, Plots()), model, data)
    assert [values.tolist() for values in panel.points] == [[1.5, 2.5, 3.5], [1, 2, 4]]
    assert [values.tolist() for values in panel.lines["predicted = true"]] == [[1, 4], [1, 4]]


def test_500_samples_are_shown(tmp_path: Path) -> None:
    data, plots = Given(torch.zeros(700, 2), torch.arange(700.0), batch_size=70), Plots()
    first, _ = shown(trainer(tmp_path, plots), build(), data)
    assert first.points[1].tolist() == list(range(500))
    assert len(plots.samples) == 8  # batches: no more are kept


def test_without_a_test_nothing_is_shown(tmp_path: Path) -> None:
    plots = Plots()
    made = fit(tmp_path, build(), Given(INPUTS, TARGETS), plots)
    assert linear_fit.panels(made, plots.samples) == []


@pytest.mark.parametrize(
    ("weights", "precision"),
    [
        ("[2.0, -3.4]", "32-true"),
        *(
            pytest.param(weights, "32-true", marks=pytest.mark.slow)
            for weights in ("[2.0]", "[2.0, -3.4, 1.0]")
        ),
        *(
            pytest.param("[2.0]", precision, marks=pytest.mark.slow)
            for precision in ("64-true", "16-true", "bf16-true", "bf16-mixed")
        ),
        *(
            pytest.param("[2.0, -3.4, 1.0]", precision, marks=pytest.mark.slow)
            for precision in ("64-true", "bf16-true")
        ),
    ],
)
def test_a_run_draws_its_fit(weights: str, precision: str, tmp_path: Path) -> None:
    args = [*EXPERIMENT, "--data.weights", weights, "--trainer.max_epochs", "1"]
    args += ["--model.num_features", str(weights.count(",") + 1), "--runs_dir", str(tmp_path)]
    args += ["--trainer.precision", precision]
    assert train(args) == 0
    names = sorted(path.name for path in tmp_path.glob("linear_regression/*/plots/*"))
    assert names == ["fit.png", "grad_norm.png", "loss.png", "lr.png"]


def test_report_sets_weights_beside_the_true_ones(tmp_path: Path) -> None:
    model = build()
    for data, weights, bias in (
        (Given(INPUTS, TARGETS), "", ""),
        (Known(INPUTS, TARGETS), "  (true 0.6000, -0.2000)", "  (true 0.8750)"),
    ):
        made = trainer(tmp_path)
        made.test(model, datamodule=data, verbose=False)
        expected = {"weights": f"0.5000, -0.5000{weights}", "bias": f"1.0000{bias}"}
        assert linear_fit.rows(made) == expected
    made.test(LinearRegression(9), datamodule=Given(torch.zeros(2, 9), TARGETS), verbose=False)
    assert linear_fit.rows(made) == {}


def test_no_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^num_features: 0 is not at least 1\.$"):
        LinearRegression(num_features=0)


@pytest.mark.slow  # of a config of its own: tests/test_linear_regression.py
def test_experiment_finds_the_true_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*EXPERIMENT, "--runs_dir", str(tmp_path)]
    assert train([*args, "--run_name", "run"]) == 0
    printed = capsys.readouterr().out
    found = re.search(r"weights +│ (\S+), (\S+) +\(true 2.0000, -3.4000\)", printed)
    assert found is not None
    assert [float(weight) for weight in found.groups()] == pytest.approx([2, -3.4], abs=0.05)
    run = tmp_path / "linear_regression" / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/weight_error"] < 0.05
    assert metrics["test/bias_error"] < 0.05
    best = run / "checkpoints" / "best.ckpt"
    model = LinearRegression.load_from_checkpoint(best, weights_only=True)
    assert layer(model).weight[0].tolist() == pytest.approx([2, -3.4], abs=0.05)


@pytest.mark.slow
def test_default_run_shows_learning(tmp_path: Path) -> None:
    """Four losses an epoch, falling to the variance of the noise; two digits of the weights."""
    assert train(["--runs_dir", str(tmp_path), "--run_name", "run"]) == 0
    run = tmp_path / "linear_regression/run"
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss_step"]]
    assert [int(row["step"]) for row in rows] == [*range(7, 320, 8)]
    losses = [float(row["train/loss_step"]) for row in rows]
    assert losses[0] > 10 > losses[3] > 1 > max(losses[12:])
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/loss"] == pytest.approx(0.5**2, rel=0.2)
    assert max(metrics["test/weight_error"], metrics["test/bias_error"]) < 0.05


@pytest.mark.slow
def test_kills(tmp_path: Path) -> None:
    often = ["--callbacks.checkpoint.every_n_steps", "7", "--trainer.max_epochs", "3"]
    survives_kills(6, tmp_path, *EXPERIMENT, *often)
