from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import MeanMetric

from lightkeel.callbacks.compile import Compile
from src.callbacks import GradientAccumulation
from tests.lightkeel.fitting import Given, fit


class Foreign(LightningModule):
    """Somebody else's model: two parts with weights, a loss and a metric."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(1, 2), nn.Linear(2, 1)
        self.loss, self.mean = nn.MSELoss(), MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self.head(self.encoder(batch[0])), batch[1][:, None])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: Path, model: LightningModule, mode: Any) -> None:
    data = Given(torch.ones(4, 1), torch.ones(4), batch_size=1)
    fit(folder, model, data, GradientAccumulation(2), Compile(mode))


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_the_model_and_its_parts_with_weights_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """On the CPU, which has no CUDA graphs, gradients can be accumulated in all modes."""
    compiled: list[tuple[nn.Module, str]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda part, mode: compiled.append((part, mode)))
    model = Foreign()
    names = list(model.state_dict())
    train(tmp_path, model, mode)
    assert compiled == [(part, mode) for part in (model, model.encoder, model.head)]
    assert list(model.state_dict()) == names


def test_unknown_mode_is_refused() -> None:
    mode: Any = "fastest"
    with pytest.raises(ValueError, match=r"^mode:") as caught:
        Compile(mode)
    assert str(caught.value) == (
        "mode: 'fastest' is none of `default`, `reduce-overhead`, `max-autotune`, "
        "`max-autotune-no-cudagraphs`."
    )
