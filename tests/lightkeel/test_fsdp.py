"""Weights shared out over devices train like whole ones, and go on as whole ones."""

import csv
import json
import math
import re
from pathlib import Path

import pytest
import torch

from src.evaluate import main as evaluate
from src.train import main as train
from tests.lightkeel.commands import (
    TRAIN,
    alone_and_together,
    assert_close,
    devices,
    finish_ranks,
    state,
)
from tests.lightkeel.conftest import TINY
from tests.lightkeel.tiny import TinyModel

METRICS = ["train/loss", "val/acc", "val/loss", "test/acc", "test/loss", "steps", "grad/norm"]
CLIPPED = [
    *(*TINY, "--callbacks.gradient_clipping.max_norm", "0.4"),
    *("--callbacks.gradient_norms.every_n_steps", "1"),
]
# Biases do not decay: parameters lie in groups in another order than in the model.
DECAY = ["--model.optimizer.weight_decay", "0.1"]


def norms(run: Path) -> list[float]:
    """List the gradient norms in ``metrics.csv``, which must be those of all layers together."""
    found = []
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            if row["grad/norm"]:
                layers = [float(row[f"grad_norm/network.{number}"]) for number in (0, 3)]
                assert float(row["grad/norm"]) == pytest.approx(math.hypot(*layers), rel=1e-5)
                found.append(float(row["grad/norm"]))
    return found


@pytest.mark.slow
def test_begun_and_ended_on_one_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["--model.lr_scheduler.total_steps", "18"]
    args = [*CLIPPED, *DECAY, *steps, "--runs_dir", str(tmp_path)]
    assert train([*args, "--trainer.max_epochs", "6", "--run_name", "one"]) == 0
    assert train([*args, "--trainer.max_epochs", "1", "--run_name", "parts"]) == 0
    one, parts = (tmp_path / "tiny" / name for name in ("one", "parts"))
    go_on = ["--resume", str(parts), "--runs_dir", str(tmp_path)]
    finish_ranks(2, *go_on, "--trainer.strategy", "fsdp", "--trainer.max_epochs", "5")

    shared = parts / "checkpoints" / "last.ckpt"
    assert TinyModel.load_from_checkpoint(shared, weights_only=True).hparams["widths"] == [6]
    assert all(type(tensor) is torch.Tensor for tensor in state(parts).values())
    capsys.readouterr()
    alone = ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    assert evaluate([str(parts), *alone]) == 0
    found = dict(re.findall(r"│ (test/\S+) +│ (\S+) ", capsys.readouterr().out))
    logged = json.loads((parts / "metrics.json").read_text())
    assert float(found["test/loss"]) == pytest.approx(logged["test/loss"], abs=1e-5)

    assert train([*go_on, *alone, "--trainer.max_epochs", "6"]) == 0
    assert_close(parts, one, METRICS)
    assert len(norms(one)) == 18
    assert norms(parts) == pytest.approx(norms(one), abs=1e-5)
    assert min(norms(one)) < 0.4 < max(norms(one))


@pytest.mark.slow
@pytest.mark.parametrize(
    "accelerator",
    [
        "cpu",
        pytest.param(
            "gpu",
            marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
        ),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        # Its state is empty, and has no place in a checkpoint.
        ["--model.optimizer", "{name: SGD, lr: 0.1}", "--model.lr_scheduler", "null"],
        [
            *("--callbacks.gradient_clipping.max_norm", "null"),
            *("--callbacks.gradient_clipping.max_value", "0.05", "--model.l1_penalty", "0.01"),
        ],
    ],
    ids=["SGD", "clipped by value"],
)
def test_two_processes(accelerator: str, options: list[str], tmp_path: Path) -> None:
    args = [*CLIPPED, *options, "--trainer.max_epochs", "6"]
    args += ["--trainer.accelerator", accelerator]
    if accelerator == "cpu":
        forked = ["--trainer.strategy", "fsdp"]
        one, several = alone_and_together(args, tmp_path, forked, ranks=2)
    else:
        launcher = [*TRAIN, *devices(2, "fsdp", accelerator)]
        one, several = alone_and_together(args, tmp_path, launcher)
    assert_close(several, one, METRICS)
    assert norms(several) == pytest.approx(norms(one), abs=1e-5)
