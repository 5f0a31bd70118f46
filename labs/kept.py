"""Labs of what training leaves: weights, beside those of other ways to the same end."""

import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightkeel import TableDataModule
from src.models import LinearRegression, SimpleCNN

from .lab import TINY, Measured, Result, trained

IMAGES = "--config labs/images.yaml"
Numbers = Mapping[str, Mapping[str, float]]  # row: column: what one seed gives


def repeated(measure: Callable[[int, str], Numbers], seeds: int = 3) -> Measured:
    """Measure with several seeds; ``measure`` takes one, and further options of its trainings."""

    def results(quick: bool) -> Result:
        found = [measure(seed, TINY if quick else "") for seed in range(1 if quick else seeds)]
        rows = {
            label: {name: [numbers[label][name] for numbers in found] for name in row}
            for label, row in found[0].items()
        }
        return Result(rows)

    return Measured(results)


def accumulation(seed: int, more: str) -> Numbers:
    """Train by batches of 1,000, and by ten of 100 for a step."""
    base = f"{IMAGES} --trainer.max_epochs 10 --model.optimizer.lr 0.1 {more}"
    whole, parts = "--data.batch_size 1000", "--data.batch_size 100"
    ten = f"{parts} --callbacks.gradient_accumulation.batches 10"
    pairs = {
        "1 x 1,000, a second time": ("", whole),
        "10 x 100": ("", ten),
        "10 x 100 in float64": ("--trainer.precision 64-true", ten),
        "10 x 100, epochs of 1,950": ("--data.num_samples 1950", ten),
        "10 x 100 with batch norm": ("--model.batch_norm true", ten),
        "100, without accumulation": ("", parts),
    }
    if more:  # two tell that it works
        pairs = dict(list(pairs.items())[:2])
    kinds = {kind for kind, _ in pairs.values()}
    expected = {kind: trained(f"{base} {kind} {whole}", seed) for kind in kinds}
    rows = {}
    for label, (kind, way) in pairs.items():
        found = trained(f"{base} {kind} {way}", seed)
        rows[label] = {
            "steps": found.metrics["steps"],
            "difference of weights": distance(expected[kind].weights, found.weights),
            "`test/acc`": found.metrics["test/acc"],
            "`test/acc`, 1 x 1,000": expected[kind].metrics["test/acc"],
        }
    return rows


def distance(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """Norm of the difference of weights, as a share of the norm of those expected."""
    first, second = (
        torch.cat([w.flatten().double() for w in weights.values() if w.is_floating_point()])
        for weights in (expected, found)
    )
    return float((first - second).norm() / first.norm())


def checkpoints(seed: int, more: str) -> Numbers:
    """Weigh the parts of a checkpoint, and load its weights where there is PyTorch alone."""
    rows = {}
    for settings in ("name: SGD", "name: SGD, momentum: 0.9", "name: Adam, lr: 0.003"):
        run = trained(f"{IMAGES} --model.optimizer '{{{settings}}}' {more}", seed)
        parts = {name: kilobytes(part) for name, part in run.checkpoint.items()}
        weights, optimizer = parts.pop("state_dict"), parts.pop("optimizer_states")
        rows[f"`{{{settings}}}`"] = {
            "weights, KB": weights,
            "optimizer, KB": optimizer,
            "all else, KB": sum(parts.values()),
            "largest difference of a score, loaded elsewhere": loaded_elsewhere(run.checkpoint),
        }
    return rows


def kilobytes(part: Any) -> float:
    """Size of the tensors and numbers of a part of a checkpoint, less that of an empty file."""
    return (file_size(part) - file_size(None)) / 1000


def file_size(content: Any) -> int:
    """Bytes of the file that ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return len(file.getvalue())


def plain_network() -> nn.Sequential:
    """Write out the network of ``labs/images.yaml``, as a program without this project would."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.MaxPool2d(2), nn.ReLU()),  # (B, 3, 16, 16) -> (B, 16, 7, 7)
        *(nn.Conv2d(16, 32, 3), nn.MaxPool2d(2), nn.ReLU()),  # -> (B, 32, 2, 2)
        *(nn.Flatten(), nn.Dropout(0), nn.Linear(128, 64), nn.ReLU()),
        *(nn.Dropout(0), nn.Linear(64, 10)),
    )


def loaded_elsewhere(checkpoint: Mapping[str, Any]) -> float:
    """Return the largest difference between the scores of the model and of the plain network."""
    with TemporaryDirectory() as folder:
        whole, alone = Path(folder, "last.ckpt"), Path(folder, "weights.pt")
        torch.save(checkpoint, whole)
        state = torch.load(whole, weights_only=True)["state_dict"]
        torch.save({name.removeprefix("network."): w for name, w in state.items()}, alone)
        network = plain_network()
        network.load_state_dict(torch.load(alone, weights_only=True))
        model = SimpleCNN.load_from_checkpoint(whole)
    images = torch.randn(100, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((model.eval()(images) - network.eval()(images)).abs().max())


def least_squares(seed: int, more: str) -> Numbers:
    """Fit the table of ``configs/table.yaml`` by gradient descent, and by the formula."""
    data = TableDataModule("configs/diabetes.csv", "progression", batch_size=400, seed=seed)
    data.prepare_data()
    data.setup("fit")
    inputs, targets = training_rows(data)
    solution = torch.linalg.lstsq(inputs, targets).solution  # (F + 1,)
    optimizers: dict[str, tuple[dict[str, Any], int]] = {
        "SGD, 250 steps": ({"name": "SGD", "lr": 0.2}, 250),
        "SGD, 1,000 steps": ({"name": "SGD", "lr": 0.2}, 1000),
        "SGD, momentum 0.87, 250 steps": ({"name": "SGD", "lr": 0.3, "momentum": 0.87}, 250),
        "Adam, 250 steps": ({"name": "Adam", "lr": 3}, 250),
    }
    rows = {"least squares": compare(solution, solution, inputs, targets)}
    torch.manual_seed(seed)
    for label, (optimizer, num_steps) in optimizers.items():
        weights = fitted(optimizer, 1 if more else num_steps, data)
        rows[label] = compare(weights, solution, inputs, targets)
    return rows


def training_rows(data: TableDataModule) -> tuple[Tensor, Tensor]:
    """Read what the model is trained on: (N, F + 1) scaled features and a one, (N,) targets."""
    part = data.datasets["train"]
    features = data.preprocessing()(part.arrays.inputs[part.rows]).double()
    ones = torch.ones(len(features), 1, dtype=torch.float64)
    return torch.cat([features, ones], 1), part.arrays.targets[part.rows].double()


def fitted(optimizer: dict[str, Any], num_steps: int, data: TableDataModule) -> Tensor:
    """Train linear regression by plain Lightning, and return weights and bias: (F + 1,)."""
    model = LinearRegression(data.num_features, optimizer=optimizer)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False}
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it lists the devices
    Trainer(max_epochs=num_steps, accelerator="cpu", **quiet).fit(model, datamodule=data)
    return torch.cat([part.detach().flatten().double() for part in model.fitted_line()])


def compare(weights: Tensor, solution: Tensor, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Compare what was fitted with the solution."""
    loss, least = (float((inputs @ w - targets).square().mean()) for w in (weights, solution))
    return {
        "training loss": loss,
        "above the least": loss - least,
        "largest error of a weight": float((weights - solution).abs().max()),
    }
