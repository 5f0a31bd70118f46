from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightkeel.callbacks import readings
from lightkeel.callbacks.checkpoint import Checkpoint
from lightkeel.callbacks.nonfinite import Nonfinite
from lightkeel.fit.exact_resume import ExactResume
from src.callbacks import GradientClipping
from tests.lightkeel.callbacks.test_gradient_clipping import INPUTS, data, half_precision, line
from tests.lightkeel.fitting import Line, Rows, fit

REMEDIES = (
    "Lower the learning rate, or set callbacks.nonfinite.action to `skip`. "
    "--config overlays/debug names the layer."
)


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("log_every_n_steps", [1, 2, 50, 0])
def test_stop_names_the_step(tmp_path: Path, value: str, log_every_n_steps: int) -> None:
    """With clipping beside it: the loss is the cause, so it is named first."""
    for others in ((), (GradientClipping(max_norm=1.0),)):
        with pytest.raises(FloatingPointError) as caught:
            fit(
                tmp_path,
                line(),
                data(bad=1, value=float(value)),
                Nonfinite(),
                *others,
                log_every_n_steps=log_every_n_steps,
            )
        assert str(caught.value) == f"the loss of optimizer step 1 is {value}.\n{REMEDIES}"


def test_batches_of_an_accumulated_step_have_its_number(tmp_path: Path) -> None:
    inputs = torch.cat([INPUTS, INPUTS])
    with pytest.raises(FloatingPointError, match=r"^the loss of optimizer step 2 is inf"):
        fit(tmp_path, line(), data(inputs, 5, float("inf")), Nonfinite(), accumulate_grad_batches=2)


def test_losses_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven steps with a row every three: two reads, and one at the end of the epoch."""
    found: list[int] = []
    check: Any = Nonfinite._check_losses

    def counting(self: Nonfinite, trainer: Trainer) -> None:
        found.append(len(self._unread))
        check(self, trainer)

    monkeypatch.setattr(Nonfinite, "_check_losses", counting)
    inputs = INPUTS[:1].repeat(7, 1)
    fit(tmp_path, line(lr=0.0), data(inputs), Nonfinite(), log_every_n_steps=3)
    assert found == [3, 3, 1]


class ByHand(Line):
    """Takes two steps for each batch."""

    def __init__(self) -> None:
        super().__init__(num_features=2, optimizer={"name": "SGD", "lr": 0.0})
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        for _ in range(2):
            self.manual_backward(self(batch[0]).mean())
            self.optimizers().step()  # type: ignore[union-attr]
        return loss.detach()


def test_losses_of_steps_by_hand_are_read_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    check: Any = Nonfinite._check_losses

    def counting(self: Nonfinite, trainer: Trainer) -> None:
        found.append(len(self._unread))
        check(self, trainer)

    monkeypatch.setattr(Nonfinite, "_check_losses", counting)
    fit(tmp_path, ByHand(), data(INPUTS[:1].repeat(7, 1)), Nonfinite(), log_every_n_steps=3)
    assert found == [3, 3, 3, 3, 2]


class RootOfNothing(Line):
    """Has finite losses whose gradient is NaN in optimizer step 1."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        root = torch.sqrt((self.layer.weight * (batch_idx != 1)).square().sum() + (batch_idx != 1))
        return super().training_step(batch, batch_idx) + root


@pytest.mark.parametrize(("every_n_steps", "steps"), [(None, []), (1, [1])])
def test_no_checkpoint_has_weights_that_are_not_numbers(
    tmp_path: Path, every_n_steps: int | None, steps: list[int]
) -> None:
    """The last of two steps spoils the weights: no loss tells."""
    model = RootOfNothing(num_features=2, bias=False, optimizer={"name": "SGD", "lr": 0.01})
    with pytest.raises(FloatingPointError) as caught:
        fit(
            tmp_path,
            model,
            data(INPUTS[:2]),
            ExactResume(),
            Nonfinite(),
            Checkpoint(every_n_steps=every_n_steps),
            log_every_n_steps=50,
        )
    assert str(caught.value) == (
        "the weights `network.0.weight` are not finite after 2 optimizer steps, so no checkpoint "
        f"is written.\n{REMEDIES}"
    )
    found = [torch.load(path, weights_only=True) for path in tmp_path.rglob("*.ckpt")]
    assert [checkpoint["global_step"] for checkpoint in found] == steps
    assert all(torch.isfinite(v).all() for c in found for v in c["state_dict"].values())


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_step_skipped_by_the_scaler_is_no_error(tmp_path: Path, action: Any) -> None:
    model, watching = line(), Nonfinite(action)
    bad = data(INPUTS[:2], bad=1, value=float("inf"))
    made = fit(tmp_path, model, bad, watching, **half_precision())
    assert model.weights == pytest.approx([-3.0, -4.0], abs=1e-5)
    assert watching.num_skipped == 0
    plugin: Any = made.precision_plugin
    assert plugin.scaler.get_scale() == 512.0


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("clips", [True, False])
def test_skipping_is_as_if_the_batch_were_not_there(
    tmp_path: Path, optimizer: str, clips: bool
) -> None:
    settings = {"momentum": 0.9} if optimizer == "SGD" else {}
    found = []
    for given in (data(bad=1, value=float("inf")), data(INPUTS[::2])):
        model, logger = line(0.1, optimizer, weight_decay=0.1, **settings), Rows()
        watching = Nonfinite("skip")
        clipping = [GradientClipping(max_norm=1.0)] if clips else []
        made = fit(tmp_path, model, given, watching, *clipping, logger=logger)
        found.append((model.weights, made.optimizers[0].state_dict()["state"], watching, logger))
    (skipped, state, counting, rows), (expected, state_expected, _, rows_expected) = found
    assert skipped == expected
    assert str(state) == str(state_expected)
    assert counting.num_skipped == 1
    assert rows.column("grad/skipped") == {0: 0, 1: 1, 2: 1}
    if clips:
        first, last = rows_expected.column("grad/norm").values()
        norms = rows.column("grad/norm")
        assert norms == pytest.approx({0: first, 1: nan, 2: last}, nan_ok=True)


def test_skipping_leaves_out_the_whole_accumulated_step(tmp_path: Path) -> None:
    model, watching = line(), Nonfinite("skip")
    inputs = torch.cat([INPUTS[:2], INPUTS[:1], INPUTS[:1]])
    fit(tmp_path, model, data(inputs, 1, float("nan")), watching, accumulate_grad_batches=2)
    assert model.weights == pytest.approx([-3.0, -4.0], abs=1e-5)
    assert watching.num_skipped == 1


def test_skipped_steps_are_counted_over_a_resumption(tmp_path: Path) -> None:
    def train(max_epochs: int, path: Path | None) -> tuple[Trainer, Nonfinite]:
        watching = Nonfinite("skip")
        given = data(bad=1, value=float("nan"))
        made = fit(tmp_path, line(), given, watching, ckpt_path=path, max_epochs=max_epochs)
        return made, watching

    made, watching = train(1, None)
    assert watching.num_skipped == 1
    made.save_checkpoint(tmp_path / "model.ckpt")
    assert train(2, tmp_path / "model.ckpt")[1].num_skipped == 2


@pytest.mark.parametrize(
    ("here", "elsewhere", "message"),
    [
        ("nan", 7.0, "the loss of optimizer step 4 is nan."),
        ("1", 3.0, "the loss of optimizer step 3 is not finite on another device."),
        ("1", float("inf"), None),
    ],
)
def test_devices_stop_together(here: str, elsewhere: float, message: str | None) -> None:
    def reduce(mine: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "min"
        return torch.minimum(mine, torch.tensor(elsewhere))

    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=reduce)
    settings = {"world_size": 2, "log_every_n_steps": 50, "global_step": 4}
    trainer: Any = SimpleNamespace(strategy=strategy, precision_plugin=None, **settings)
    watching = Nonfinite()
    model = line()
    watching.on_train_batch_start(trainer, model, None, 0)
    watching.on_train_batch_end(trainer, model, {"loss": torch.tensor(float(here))})
    if message is None:
        watching.on_train_epoch_end(trainer, model)
    else:
        with pytest.raises(FloatingPointError) as caught:
            watching.on_train_epoch_end(trainer, model)
        assert str(caught.value) == f"{message}\n{REMEDIES}"


def test_unknown_action_is_refused() -> None:
    action: Any = "ignore"
    with pytest.raises(ValueError, match=r"^action: 'ignore' is neither `stop` nor `skip`\.$"):
        Nonfinite(action)


@pytest.mark.parametrize("value", ["nan", "-inf"])
def test_losses_with_a_dimension(value: str) -> None:
    losses = [torch.tensor([1.0]), torch.tensor(2.0), torch.tensor([float(value)])]
    found = readings.first_nonfinite(losses)
    assert found is not None
    assert (found[0], str(found[1])) == (2, value)
    assert readings.first_nonfinite(losses[:2]) is None
