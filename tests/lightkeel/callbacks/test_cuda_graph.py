"""What a graph replays is the step itself. Here, without a GPU, a replay computes it anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from lightkeel.callbacks import cuda_graph
from lightkeel.callbacks.cuda_graph import CUDAGraph, GraphedStep, Run
from tests.lightkeel.fitting import Given, Rows, fit


class Reruns:
    """Stands in for ``record``: a graph that computes a step anew, in the places of the first."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def record(self, run: Run) -> Callable[[], None]:
        self.captured += 1
        cells: Any = run.__closure__
        (step,) = [c.cell_contents for c in cells if isinstance(c.cell_contents, GraphedStep)]
        held = [(place, place.clone()) for _, _, place in step.state.places]
        random = torch.get_rng_state()
        static = run()
        torch.set_rng_state(random)  # a capture computes nothing
        for place, value in held:
            place.copy_(value)
        kept = {name: vars(step)[name] for name in ("output", "gradients", "logged")}

        def replay() -> None:
            self.replayed += 1
            step.state.counts = [metric.update_count for metric in step.state.metrics]
            with cuda_graph.recorded_log(step.module) as step.logged:
                new = run()
            for place, value in zip(static, new, strict=True):
                place.copy_(value)
            vars(step).update(kept)

        return replay


@pytest.fixture
def reruns(monkeypatch: pytest.MonkeyPatch) -> Reruns:
    made = Reruns()
    monkeypatch.setattr(cuda_graph, "record", made.record)
    monkeypatch.setattr(cuda_graph, "obstacle", lambda trainer, module: None)
    return made


class Net(LightningModule):
    """Dropout, batch norm, a metric with states, a buffer that is bound anew, and values logged."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)
        )
        self.size = MeanMetric()
        self.register_buffer("steps", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        out = self.net(x)[:, 0]
        self.steps = self.steps + 1
        self.size.update(out.detach().abs())
        loss = F.mse_loss(out, y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("size", self.size, on_step=False, on_epoch=True)
        return {"loss": loss, "out": out.detach()}

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def data(number: int = 27) -> Given:
    inputs = torch.randn(number, 2, generator=torch.Generator().manual_seed(1))
    return Given(inputs, inputs.sum(1), batch_size=4)


def trained(folder: Path, *callbacks: Any) -> tuple[Net, Rows]:
    """Train for 3 epochs of 7 batches, the last of which has 3 samples and not 4."""
    model, rows = Net(), Rows()
    torch.manual_seed(5)  # of dropout
    fit(folder, model, data(), *callbacks, logger=rows, max_epochs=3)
    return model, rows


def test_replayed_steps_change_no_bit(tmp_path: Path, reruns: Reruns) -> None:
    plain, plain_rows = trained(tmp_path)
    assert reruns.captured == 0
    graphed, rows = trained(tmp_path, CUDAGraph(warm_up_steps=2))
    # 21 steps: 2 to warm up, 3 last batches that are smaller.
    assert (reruns.captured, reruns.replayed) == (1, 16)
    assert plain.steps == graphed.steps == 21
    for name, value in plain.state_dict().items():
        assert torch.equal(value, graphed.state_dict()[name]), name
    assert plain_rows.rows == rows.rows
    assert len(rows.column("size")) == 3
    assert "training_step" not in vars(graphed)


class Counts(Net):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.number += 1
        return super().training_step(batch, batch_idx)


class LogsNumber(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("number", 1.0)
        return super().training_step(batch, batch_idx)


class NoLoss(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None


OFF = "\nOr switch it off: --callbacks.cuda_graph null"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Counts,
            "training_step changes `number`, which a graph would not. Make it a buffer, by "
            "register_buffer.",
        ),
        (
            LogsNumber,
            "LogsNumber.training_step cannot be captured: it logs `number` as a number, "
            "which a graph would repeat.",
        ),
        (NoLoss, "NoLoss.training_step cannot be captured: it returned no loss."),
    ],
)
def test_what_cannot_be_captured_is_said(
    tmp_path: Path, reruns: Reruns, model: type[Net], message: str
) -> None:
    with pytest.raises(ValueError, match="training_step") as caught:
        fit(tmp_path, model(), data(), CUDAGraph(1))
    assert str(caught.value) == message + OFF


class ByHand(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class OwnBackward(Net):
    def backward(self, loss: Tensor) -> None:  # type: ignore[override]
        loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Net, {"device": "cpu"}, "needs an NVIDIA GPU, and the run is on cpu."),
        (Net, {"world_size": 2}, "captures the step of one device, and there are 2."),
        (
            Net,
            {"accumulate_grad_batches": 3},
            "does not capture gradients that are accumulated, over 3 batches here.",
        ),
        (ByHand, {}, "ByHand optimizes by hand, step by step in Python."),
        (OwnBackward, {}, "OwnBackward has a `backward` of its own, which would not run."),
        (
            Net,
            {"scaler": object()},
            "16-bit precision scales losses by a number that changes. Use bf16-mixed.",
        ),
        (Net, {}, None),
    ],
)
def test_runs_that_are_refused(model: type[Net], options: dict[str, Any], message: str) -> None:
    chosen = {"device": "cuda", "world_size": 1, "accumulate_grad_batches": 1, "scaler": None}
    chosen |= options
    device = type("", (), {"root_device": torch.device(chosen["device"])})
    precision = type("", (), {"scaler": chosen["scaler"]})
    trainer: Any = type("", (), {**chosen, "strategy": device, "precision_plugin": precision})
    assert cuda_graph.obstacle(trainer, model()) == message
