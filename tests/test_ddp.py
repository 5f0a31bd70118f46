"""Several processes give the weights of one, in real processes as a user starts them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.train import main as train
from tests.conftest import TINY_IMAGES

ARGS = [
    *TINY_IMAGES,
    *("--data.num_val_samples", "19", "--data.num_test_samples", "31"),  # cannot be halved
    *("--trainer.max_epochs", "5", "--callbacks.gradient_clipping.max_norm", "0.5"),
]
TWO = ["--trainer.devices", "2", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"]
TORCHRUN = [
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "src.train",
]


def weights(run: Path) -> torch.Tensor:
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([tensor.flatten() for tensor in state.values()])


# The last global batch has three samples, or one for two devices.
@pytest.mark.parametrize(
    ("launcher", "options", "num_samples"),
    [(["-m", "src.train"], TWO, 99), (TORCHRUN, ["--trainer.accelerator", "cpu"], 97)],
    ids=["ddp", "torchrun"],
)
def test_two_processes(
    launcher: list[str], options: list[str], num_samples: int, tmp_path: Path
) -> None:
    args = [*ARGS, "--data.num_samples", str(num_samples)]
    assert train([*args, "--runs_dir", str(tmp_path / "one"), "--run_name", "run"]) == 0
    one = tmp_path / "one" / "cifar10_synthetic" / "run"
    done = subprocess.run(
        [sys.executable, *launcher, *args, *options, "--runs_dir", str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (two,) = tmp_path.glob("two/cifar10_synthetic/*")  # one folder, made by one process

    torch.testing.assert_close(weights(two), weights(one), atol=1e-5, rtol=0)
    names = sorted(p.name for p in two.iterdir() if not p.name.startswith("events."))
    assert names == [
        "checkpoints",
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "metrics.json",
    ]
    assert json.loads((two / "environment.json").read_text())["num_devices"] == 2

    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (two, one))
    assert ours["steps"] == theirs["steps"] == 5 * 4
    names = ["val/acc", "val/loss", "test/acc", "test/loss"]
    if num_samples == 99:  # a device without a sample repeats one, which train/loss counts
        names.append("train/loss")
    for name in names:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name
    # A count out of 31: no sample of the odd one out was left out or counted twice.
    assert (ours["test/acc"] * 31) == pytest.approx(round(ours["test/acc"] * 31), abs=1e-4)
    for run in (two, one):
        with (run / "metrics.csv").open() as file:
            steps = [row["step"] for row in csv.DictReader(file) if row["lr"]]
        assert steps == [str(step) for step in range(20)]  # each row once
