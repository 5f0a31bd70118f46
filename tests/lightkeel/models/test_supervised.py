import warnings
from math import fsum
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError

from lightkeel.errors.explain import explain
from src.models import supervised
from src.models.supervised import MeanLoss, SupervisedModule, initialize
from tests.lightkeel.fitting import Given, Line, Rows, fit, trainer

STILL = {"name": "SGD", "lr": 0.0}


class Counted(Line):
    """Predicts 0 for ever, and counts what it logs."""

    def __init__(self) -> None:
        super().__init__(optimizer=STILL)
        self.logged: list[str] = []

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        self.logged.append(name)
        super().log(name, *args, **kwargs)


def squares(batch_size: int = 2) -> Given:
    """Targets 1 to 5 for a prediction of 0: squared errors 1, 4, 9, 16, 25, their mean 11."""
    return Given(torch.zeros(5, 1), torch.arange(1.0, 6.0), batch_size=batch_size)


@pytest.mark.parametrize(
    ("options", "rows", "means"),
    [
        ({"log_every_n_steps": 1}, {0: 2.5, 1: 12.5, 2: 25}, {2: 11}),
        (
            {"log_every_n_steps": 2, "max_epochs": 2},
            {1: 7.5, 3: 2.5, 5: 50 / 3},  # not over the end of an epoch
            {2: 11, 5: 11},
        ),
        ({"log_every_n_steps": 3}, {2: 11}, {2: 11}),
        ({"log_every_n_steps": 4}, {}, {2: 11}),
        ({"log_every_n_steps": 0}, {}, {2: 11}),
        ({"log_every_n_steps": 1, "accumulate_grad_batches": 2}, {0: 7.5, 1: 25}, {1: 11}),
        ({"log_every_n_steps": 2, "accumulate_grad_batches": 2}, {1: 11}, {1: 11}),
        ({"log_every_n_steps": 1, "limit_train_batches": 1}, {0: 2.5}, {0: 2.5}),
    ],
)
def test_losses_are_means_over_samples(
    tmp_path: Path,
    options: dict[str, Any],
    rows: dict[int, float],
    means: dict[int, float],
) -> None:
    model, logger = Counted(), Rows()
    fit(tmp_path, model, squares(), logger=logger, **options)
    assert logger.column("train/loss_step") == pytest.approx(rows)
    assert logger.column("train/loss") == means
    assert model.logged == []  # by Lightning, which takes long


@pytest.mark.parametrize("log_every_n_steps", [1, 50])
def test_broken_off_epoch_leaves_nothing_in_the_next(
    tmp_path: Path, log_every_n_steps: int
) -> None:
    class Broken(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            if args[-1] == 2:
                raise RuntimeError("broken")

    model = Counted()
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, model, squares(), Broken(), log_every_n_steps=log_every_n_steps)
    made = fit(tmp_path, model, squares(), log_every_n_steps=3)
    assert float(made.callback_metrics["train/loss"]) == 11.0
    assert float(made.callback_metrics["train/loss_step"]) == 11.0


def test_evaluation_counts_each_sample_once(tmp_path: Path) -> None:
    model, data = Counted(), squares(batch_size=3)
    assert model.monitorable == {"train/loss", "val/loss"}
    made = fit(tmp_path, model, data, limit_val_batches=None, num_sanity_val_steps=1)
    assert float(made.callback_metrics["val/loss"]) == 11.0
    tested = trainer(tmp_path).test(model, datamodule=data, verbose=False)
    assert tested == [{"test/loss": 11.0}]
    assert sorted(set(model.logged)) == ["test/loss", "val/loss"]


@pytest.mark.parametrize("by_forward", [False, True])
def test_mean_of_many_losses_is_right_to_float32(by_forward: bool) -> None:
    """Of 50,000 samples on two devices, and in plain float32, as Apple's GPUs have no other."""
    ranks = [MeanLoss(lambda outputs, _: outputs.mean()) for _ in range(2)]
    losses = torch.rand(250, 2, generator=torch.Generator().manual_seed(0)) + 1
    losses[0] = 1e7  # beside which the others are lost one by one
    for row in losses:
        for metric, loss in zip(ranks, row, strict=True):
            outputs = loss.expand(100)
            (metric if by_forward else metric.update)(outputs, torch.zeros(100))
    together = ranks[0]
    together.total = supervised.compensated_sum(torch.stack([metric.total for metric in ranks]))
    together.count = sum(metric.count for metric in ranks)  # type: ignore[assignment]
    assert together.count == 50_000
    expected = fsum(losses.flatten().tolist()) / losses.numel()
    assert together.compute().dtype == torch.float32
    assert float(together.compute()) == pytest.approx(expected, rel=2**-23)


def test_further_metrics_are_those_of_all_samples(tmp_path: Path) -> None:
    model = SupervisedModule(
        nn.Sequential(nn.Linear(1, 1), nn.Flatten(0)),
        F.mse_loss,
        {"mae": MeanAbsoluteError()},
        optimizer=STILL,
    )
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    made = fit(tmp_path, model, squares(), limit_val_batches=2, log_every_n_steps=3)
    assert {name: float(value) for name, value in made.callback_metrics.items()} == {
        "train/loss": 11.0,
        "train/loss_step": 11.0,
        "train/mae": 3.0,
        "train/mae_step": 3.0,
        "val/loss": 7.5,  # of the first four
        "val/mae": 2.5,
    }


def test_without_settings_sgd_steps_by_a_tenth(tmp_path: Path) -> None:
    model = Line()
    fit(tmp_path, model, Given(torch.tensor([[2.0]]), torch.tensor([3.0])))
    # d/dw (0 - 3)^2 = -2 * 3 * x, d/db = -2 * 3
    assert model.weights == pytest.approx([1.2, 0.6])


def test_l1_penalty_is_on_weights_alone_and_not_in_metrics() -> None:
    layers = (nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1), nn.Flatten(0))
    network = nn.Sequential(*layers).eval()
    model = SupervisedModule(network, F.mse_loss, {}, l1_penalty=0.5)
    values = {"0.weight": [1.0, -2.0], "0.bias": [7.0, 7.0], "2.weight": [-3.0, 0.25]}
    values["2.bias"] = [22.75]  # so that the loss is nearly 0
    with torch.no_grad():
        for name, value in values.items():
            parameter = network.get_parameter(name)
            parameter.copy_(torch.tensor(value).view_as(parameter))
    batch = (torch.ones(3, 1), torch.zeros(3))
    plain = F.mse_loss(network(batch[0]), batch[1])
    assert float((model.training_step(batch, 0) - plain).detach()) == pytest.approx(0.5 * 6.25)
    with torch.no_grad():
        assert float(model.train_metrics["loss"](network(batch[0]), batch[1])) == float(plain)


LAYERS: dict[str, tuple[nn.Module, int, int]] = {
    "linear": (nn.Linear(300, 500), 300, 500),
    "conv": (nn.Conv2d(32, 64, 3), 32 * 9, 64 * 9),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_xavier_is_uniform_within_its_bound(kind: str) -> None:
    layer, fan_in, fan_out = LAYERS[kind]
    torch.manual_seed(0)
    initialize(layer, "xavier")
    weight, bound = layer.get_parameter("weight").detach(), (6 / (fan_in + fan_out)) ** 0.5
    assert 0.999 * bound < float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert layer.get_parameter("bias").tolist() == [0.0] * len(weight)


@pytest.mark.parametrize("kind", LAYERS)
def test_he_is_normal_by_fan_in(kind: str) -> None:
    layer, fan_in, _ = LAYERS[kind]
    torch.manual_seed(0)
    initialize(layer, "he")
    weight, std = layer.get_parameter("weight").detach(), (2 / fan_in) ** 0.5
    assert float(weight.std()) == pytest.approx(std, rel=0.02)
    assert float((weight.abs() < std).float().mean()) == pytest.approx(0.6827, abs=0.01)
    assert layer.get_parameter("bias").tolist() == [0.0] * len(weight)


def test_default_weights_are_left_alone() -> None:
    layer = nn.Sequential(nn.Linear(4, 3), nn.Conv2d(1, 2, 3, bias=False))
    before = [p.clone() for p in layer.parameters()]
    initialize(layer, "default")
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    initialize(layer, "he")  # a layer may have no bias
    assert not any(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l1_penalty": -0.1}, "l1_penalty: -0.1 is negative."),
        (
            {"weight_init": "kaiming"},
            "weight_init: 'kaiming' is none of `default`, `xavier`, `he`.",
        ),
        (
            {"optimizer": {"lr": 1}},
            "optimizer.name: missing. Give one of torch.optim, such as AdamW.",
        ),
        ({"lr_scheduler": {"name": "StepLR"}}, "lr_scheduler.step_size: StepLR needs it."),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=":") as caught:
        Line(**settings)
    assert str(caught.value) == message


class OwnSteps(Line):
    """Steps as Lightning's documentation shows them."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.mse_loss(self(batch[0]), batch[1])
        self.log("train/loss", 10 * loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.val_metrics["abs"].update(self(batch[0]), batch[1])
        self.log("val/mine", 7.0)


def test_metrics_that_a_step_leaves_out_are_not_logged(tmp_path: Path) -> None:
    model, logger = OwnSteps(optimizer=STILL), Rows()
    model.val_metrics.add_metrics({"abs": MeanAbsoluteError()})
    model.test_metrics.add_metrics({"abs": MeanAbsoluteError()})
    made = fit(tmp_path, model, squares(), logger=logger, limit_val_batches=2)
    names = {name for _, row in logger.rows for name in row}
    assert names == {"epoch", "train/loss", "val/abs", "val/mine"}
    assert logger.column("train/loss") == {2: 110}
    assert logger.column("val/abs") == {2: 2.5}  # mean of 1 to 4
    assert made.callback_metrics["val/mine"] == 7
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        (tested,) = made.test(model, squares(), verbose=False)
    assert tested == {"test/loss": 11, "test/abs": 3}


def test_what_a_subclass_logs_can_be_watched() -> None:
    assert Line().monitorable == {"train/loss", "val/loss"}
    assert not hasattr(OwnSteps(), "monitorable")


class Normalized(SupervisedModule):
    def __init__(self) -> None:
        network = nn.Sequential(nn.BatchNorm1d(1), nn.Flatten(0))
        super().__init__(network, F.mse_loss, {}, optimizer=STILL)


def test_batch_of_one_sample_has_no_statistics(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="batch normalization") as caught:
        fit(tmp_path, Normalized(), squares())
    assert str(caught.value) == (
        "batch 2 of the epoch holds one sample, whose mean and variance are no statistics for "
        "batch normalization (Expected more than 1 value per channel when training, got input "
        "size torch.Size([1, 1])).\nLeave it out with data.drop_last true, or choose another "
        "data.batch_size."
    )
    assert explain(caught.value) == f"model: {caught.value}"
