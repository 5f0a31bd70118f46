from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lightkeel.callbacks.checkpoint import Checkpoint
from lightkeel.callbacks.direction import find_mode
from lightkeel.callbacks.early_stopping import EarlyStopping
from tests.lightkeel.fitting import Given, Line, fit


class WithMetrics(LightningModule):
    """Its metrics tell, whatever they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.val_fit = MulticlassAccuracy(2)
        self.val_miss = MeanSquaredError()
        self.parts = MetricCollection({"odd": MulticlassAccuracy(2)}, prefix="val/")


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val/loss", "min"),
        ("val_loss", "min"),
        ("val/acc", "max"),
        ("valAccuracy", "max"),
        ("val_acc_epoch", "max"),
        ("val/top5", "max"),
        ("val/f1_macro", "max"),
        ("val_auroc", "max"),
        ("val/mean_dice", "max"),
        ("val/rmse", "min"),
        ("val/wer", "min"),
        ("val/fit", "max"),
        ("val_miss", "min"),
        ("val/odd", "max"),
    ],
)
def test_direction(monitor: str, mode: str) -> None:
    assert find_mode(monitor, WithMetrics()) == mode


@pytest.mark.parametrize("monitor", ["val/score", "val/quality", "val/accuracy_error"])
def test_what_does_not_tell(monitor: str) -> None:
    assert find_mode(monitor, nn.Linear(1, 1)) is None


ACCURACIES = [0.1, 0.3, 0.5, 0.4, 0.3, 0.2]


class Accurate(Line):
    """Logs an accuracy that rises, and then falls."""

    def on_validation_epoch_end(self) -> None:
        self.log("val/acc", ACCURACIES[self.trainer.current_epoch])


def test_accuracy_is_maximized_unless_told_otherwise(tmp_path: Path) -> None:
    data = Given(torch.ones(2, 1), torch.ones(2))
    checkpoint, stopping = Checkpoint("val/acc"), EarlyStopping("val/acc", patience=2)
    options: dict[str, Any] = {"max_epochs": 6, "limit_val_batches": 1}
    made = fit(tmp_path, Accurate(), data, checkpoint, stopping, **options)
    assert (made.current_epoch, stopping.stopped_epoch) == (5, 4)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 2
    assert float(checkpoint.best_model_score or 0) == pytest.approx(0.5)
    worst = Checkpoint("val/acc", mode="min")
    fit(tmp_path / "worst", Accurate(), data, worst, **options)
    assert float(worst.best_model_score or 0) == pytest.approx(0.1)


@pytest.mark.parametrize("callback", [Checkpoint("val/luck"), EarlyStopping("val/luck")])
def test_what_does_not_tell_is_refused_before_training(tmp_path: Path, callback: Any) -> None:
    data, model = Given(torch.ones(2, 1), torch.ones(2)), Accurate()
    with pytest.raises(ValueError, match="mode: null") as caught:
        fit(tmp_path, model, data, callback, limit_val_batches=1)
    assert str(caught.value) == (
        "mode: null, and `val/luck` does not tell whether less or more of it is better. Give `min` "
        "or `max`."
    )
    assert model.weights == [0.0, 0.0]


def test_weights_exchanged_after_training_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    from lightkeel.fit.exact_resume import ExactResume

    data = Given(torch.arange(8.0).reshape(8, 1) / 8, torch.ones(8), batch_size=2)
    model = Line(optimizer={"name": "SGD", "lr": 0.1})
    average = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    options: dict[str, Any] = {"max_epochs": 4, "limit_val_batches": 1}
    fit(tmp_path, model, data, ExactResume(), average, Checkpoint(), **options)
    folder = tmp_path / "checkpoints"
    states = {
        name: torch.load(folder / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("best", "last", "final")
    }
    weight = "network.0.weight"
    assert states["final"][weight].equal(model.state_dict()[weight])
    assert not states["last"][weight].equal(states["final"][weight])
    assert f"{folder}/final.ckpt holds them" in capsys.readouterr().err
    # The best is what was validated.
    scored = torch.load(folder / "best.ckpt", weights_only=True)["callbacks"]["Checkpoint"]
    validated = Line()
    validated.load_state_dict(states["best"])
    inputs, targets = data.arrays
    with torch.no_grad():
        loss = validated.loss(validated(inputs[:2]), targets[:2])
    assert float(loss) == pytest.approx(float(scored["current_score"]), abs=1e-7)
