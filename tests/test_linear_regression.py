import json
from pathlib import Path

import pytest
import torch

from src.models import LinearRegression
from src.train import main as train

CONFIG = """
model: {class_path: LinearRegression, init_args: {optimizer: {name: SGD, lr: 0.05}}}
data: SyntheticRegressionDataModule
trainer: {max_epochs: 10, accelerator: cpu}
"""


def test_gradient_by_hand() -> None:
    """With w = (0.5, -0.5), b = 1 both predictions are 0.5, the errors -1.5 and 0.5."""
    model = LinearRegression(num_features=2)
    weight, bias = model.network.parameters()
    weight.data = torch.tensor([[0.5, -0.5]])
    bias.data = torch.tensor([1.0])
    x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([2.0, 0.0])
    loss = model.loss(model(x), y)
    assert loss.item() == (1.5**2 + 0.5**2) / 2
    # Mean of 2 * error * x: (-3 * 1 + 1 * 3) / 2 = 0, (-3 * 2 + 1 * 4) / 2 = -1; bias: -1.
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert [gradient.flatten().tolist() for gradient in gradients] == [[0, -1], [-1]]


def test_finds_the_true_weights(tmp_path: Path) -> None:
    config = tmp_path / "line.yaml"  # of its own, whatever becomes of those in configs
    config.write_text(CONFIG)
    assert train(["--config", str(config), "--runs_dir", str(tmp_path), "--run_name", "run"]) == 0
    (run,) = tmp_path.glob("*/run")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/weight_error"] < 0.01
    assert metrics["test/bias_error"] < 0.01
    best = run / "checkpoints" / "best.ckpt"
    model = LinearRegression.load_from_checkpoint(best, weights_only=True)
    weight, bias = model.network.parameters()
    assert weight[0].tolist() == pytest.approx([2, -3.4], abs=0.01)
    assert bias.tolist() == pytest.approx([4.2], abs=0.01)
