from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError

from lightkeel import initialize
from lightkeel.errors.explain import explain
from src.models import SimpleCNN
from src.models.supervised import SupervisedModule
from tests.lightkeel.fitting import Given, Line, Rows, fit, trainer

STILL = {"name": "SGD", "lr": 0.0}


def squares(batch_size: int = 2) -> Given:
    """Targets 1 to 5 for a prediction of 0: squared errors 1, 4, 9, 16, 25, their mean 11."""
    return Given(torch.zeros(5, 1), torch.arange(1.0, 6.0), batch_size=batch_size)


@pytest.mark.parametrize(
    ("options", "rows", "means"),
    [
        ({"log_every_n_steps": 1}, {0: 2.5, 1: 12.5, 2: 25}, {2: 11}),
        ({"log_every_n_steps": 2, "max_epochs": 2}, {1: 12.5, 3: 2.5, 5: 25}, {2: 11, 5: 11}),
        ({"log_every_n_steps": 3}, {2: 25}, {2: 11}),
        ({"log_every_n_steps": 4}, {}, {2: 11}),
        ({"log_every_n_steps": 0}, {}, {2: 11}),
        ({"log_every_n_steps": 1, "accumulate_grad_batches": 2}, {0: 12.5, 1: 25}, {1: 11}),
        ({"log_every_n_steps": 2, "accumulate_grad_batches": 2}, {1: 25}, {1: 11}),
        ({"log_every_n_steps": 1, "limit_train_batches": 1}, {0: 2.5}, {0: 2.5}),
    ],
)
def test_losses_of_steps_and_means_over_samples(
    tmp_path: Path,
    options: dict[str, Any],
    rows: dict[int, float],
    means: dict[int, float],
) -> None:
    logger = Rows()
    fit(tmp_path, Line(optimizer=STILL), squares(), logger=logger, **options)
    assert logger.column("train/loss_step") == pytest.approx(rows)
    assert logger.column("train/loss") == means


@pytest.mark.parametrize("log_every_n_steps", [1, 50])
def test_broken_off_epoch_leaves_nothing_in_the_next(
    tmp_path: Path, log_every_n_steps: int
) -> None:
    class Broken(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            if args[-1] == 2:
                raise RuntimeError("broken")

    model = Line(optimizer=STILL)
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, model, squares(), Broken(), log_every_n_steps=log_every_n_steps)
    made = fit(tmp_path, model, squares(), log_every_n_steps=3)
    assert float(made.callback_metrics["train/loss"]) == 11.0
    assert float(made.callback_metrics["train/loss_step"]) == 25.0


def test_evaluation_counts_each_sample_once(tmp_path: Path) -> None:
    model, data = Line(optimizer=STILL), squares(batch_size=3)
    made = fit(tmp_path, model, data, limit_val_batches=None, num_sanity_val_steps=1)
    assert float(made.callback_metrics["val/loss"]) == 11.0
    assert trainer(tmp_path).test(model, datamodule=data, verbose=False) == [{"test/loss": 11.0}]


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
        "train/loss_step": 25.0,
        "train/mae": 3.0,
        "val/loss": 7.5,  # of the first four
        "val/mae": 2.5,
    }


def test_without_settings_sgd_steps_by_a_tenth(tmp_path: Path) -> None:
    model = Line()
    fit(tmp_path, model, Given(torch.tensor([[2.0]]), torch.tensor([3.0])))
    # d/dw (0 - 3)^2 = -2 * 3 * x, d/db = -2 * 3
    assert model.weights == pytest.approx([1.2, 0.6])


def test_l1_penalty_is_on_weights_alone_and_not_in_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
    plain = float(F.mse_loss(network(batch[0]), batch[1]).detach())
    logged: dict[str, float] = {}
    monkeypatch.setattr(
        model, "log", lambda name, value, **_: logged.update({name: float(value.detach())})
    )
    assert float(model.training_step(batch, 0).detach()) - plain == pytest.approx(0.5 * 6.25)
    assert logged == {"train/loss_step": plain, "train/loss": plain}


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
        ({"l1_penalty": -0.1}, "l1_penalty: -0.1 is not at least 0."),
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


def test_checkpoints_of_older_versions_load(tmp_path: Path) -> None:
    """They name the mode of compiling, which was an option of models."""
    model, path = SimpleCNN(image_size_px=8, channels=[2]), tmp_path / "old.ckpt"
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": {**model.hparams, "compile_mode": "default"},
        "pytorch-lightning_version": "2.6.0",
        "epoch": 0,
        "global_step": 0,
    }
    torch.save(checkpoint, path)
    loaded = SimpleCNN.load_from_checkpoint(path, weights_only=True)
    assert loaded.hparams["channels"] == [2]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    with pytest.raises(TypeError, match=r"^SimpleCNN has no argument `chanels`\.$"):
        SimpleCNN(chanels=[2])


class Normalized(SupervisedModule):
    def __init__(self) -> None:
        network = nn.Sequential(nn.BatchNorm1d(1), nn.Flatten(0))
        super().__init__(network, F.mse_loss, {}, optimizer=STILL)


def test_batch_of_one_sample_has_no_statistics(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as caught:
        fit(tmp_path, Normalized(), squares())
    assert explain(caught.value) == (
        "model: batch 2 of the epoch holds one sample, whose mean and variance are no statistics "
        "for batch normalization (Expected more than 1 value per channel when training, got input "
        "size torch.Size([1, 1])).\nLeave it out with data.drop_last true, or choose another "
        "data.batch_size."
    )
