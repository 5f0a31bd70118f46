"""Several processes give the weights of one, in real processes as a user starts them."""

import csv
import json
from pathlib import Path

import pytest

from tests.commands import TRAIN, TWO, alone_and_together, assert_close
from tests.conftest import TINY

ARGS = [
    *TINY,
    *("--data.num_val_samples", "19", "--data.num_test_samples", "31"),  # cannot be halved
    *("--trainer.max_epochs", "5", "--callbacks.gradient_clipping.max_norm", "0.5"),
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *TRAIN]


# The last global batch has three samples, or one for two devices.
@pytest.mark.parametrize(
    ("launcher", "options", "num_samples"),
    [(TRAIN, TWO, 99), (TORCHRUN, [], 97)],
    ids=["ddp", "torchrun"],
)
def test_two_processes(
    launcher: list[str], options: list[str], num_samples: int, tmp_path: Path
) -> None:
    args = [*ARGS, "--data.num_samples", str(num_samples)]
    one, two = alone_and_together(args, tmp_path, launcher, options)
    metrics = ["val/acc", "val/loss", "test/acc", "test/loss", "steps"]
    if num_samples == 99:  # a device without a sample repeats one, which train/loss counts
        metrics.append("train/loss")
    assert_close(two, one, metrics)

    names = sorted(p.name for p in two.iterdir() if not p.name.startswith("events."))
    assert names == [
        "checkpoints",
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "metrics.json",
    ]
    assert json.loads((two / "environment.json").read_text())["num_devices"] == 2
    found = json.loads((two / "metrics.json").read_text())
    assert found["steps"] == 5 * 4
    # A count out of 31: no sample of the odd one out was left out or counted twice.
    assert (found["test/acc"] * 31) == pytest.approx(round(found["test/acc"] * 31), abs=1e-4)
    for run in (two, one):
        with (run / "metrics.csv").open() as file:
            steps = [row["step"] for row in csv.DictReader(file) if row["lr"]]
        assert steps == [str(step) for step in range(20)]  # each row once
