"""Several processes give the weights of one, in real processes as a user starts them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from src.train import main as train
from tests.lightkeel.commands import (
    TORCHRUN,
    TRAIN,
    TWO,
    alone_and_together,
    assert_close,
    devices,
    finish_ranks,
    forked,
    free_port,
    start,
)
from tests.lightkeel.conftest import TINY

ARGS = [
    *TINY,
    *("--data.num_val_samples", "19", "--data.num_test_samples", "31"),  # cannot be halved
    *("--callbacks.gradient_clipping.max_norm", "0.5", "--model.lr_scheduler.total_steps", "20"),
]
WHOLE = ["--trainer.max_epochs", "5"]


def machines(backend: str) -> list[list[str]]:
    """Commands for two machines with a process each, on this one."""
    port = free_port()
    meeting = {
        "static": ["--master-addr", "127.0.0.1", "--master-port", port],
        "c10d": ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"],
    }[backend]
    each = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meeting]
    return [[*each, "--node-rank", rank, *TRAIN] for rank in ("0", "1")]


def steps_logged(run: Path) -> list[int]:
    """List the optimizer steps with a row of their own in ``metrics.csv``."""
    with (run / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["lr"]]


# The last global batch has three samples, or one for several devices.
@pytest.mark.parametrize(
    ("launchers", "number", "num_samples"),
    [
        (lambda: [[*TRAIN, *TWO]], 2, 99),  # the first is forked, and starts the second
        pytest.param(lambda: [TORCHRUN], 2, 97, marks=pytest.mark.slow),
        pytest.param(lambda: machines("static"), 2, 97, marks=pytest.mark.slow),
        pytest.param(lambda: machines("c10d"), 2, 97, marks=pytest.mark.slow),
        pytest.param(lambda: [[*TRAIN, *devices(4)]], 4, 97, marks=pytest.mark.slow),
    ],
    ids=["ddp", "torchrun", "two machines", "two machines that find each other", "four"],
)
def test_processes(
    launchers: Callable[[], list[list[str]]], number: int, num_samples: int, tmp_path: Path
) -> None:
    plots = ["--callbacks.plots", "Plots"]
    args = [*ARGS, *WHOLE, *plots, "--data.num_samples", str(num_samples)]
    begin = forked if num_samples == 99 else start
    one, several = alone_and_together(args, tmp_path, *launchers(), begin=begin)
    metrics = ["val/acc", "val/loss", "test/acc", "test/loss", "steps"]
    if num_samples == 99:  # a device without a sample repeats one, which train/loss counts
        metrics.append("train/loss")
    assert_close(several, one, metrics)

    names = sorted(p.name for p in several.iterdir() if not p.name.startswith("events."))
    assert names == [
        "checkpoints",
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "metrics.json",
        "plots",
        "status.json",
    ]
    picture = "plots/confusion.png"  # counts of all devices together
    assert (several / picture).read_bytes() == (one / picture).read_bytes()
    assert len(list(several.glob("events.*"))) == len(list(one.glob("events.*")))
    assert json.loads((several / "environment.json").read_text())["num_devices"] == number
    found = json.loads((several / "metrics.json").read_text())
    assert found["steps"] == 5 * 4
    # A count out of 31: no sample of the odd one out was left out or counted twice.
    assert (found["test/acc"] * 31) == pytest.approx(round(found["test/acc"] * 31), abs=1e-4)
    assert steps_logged(one) == steps_logged(several) == list(range(20))  # each row once


@pytest.mark.slow  # on one device also where a process was killed: test_lost_process.py
@pytest.mark.parametrize("number", [1, 4])
def test_resumed_on_another_number_of_devices(number: int, tmp_path: Path) -> None:
    """Begun on two, at the end of an epoch."""
    args = [*ARGS, "--data.num_samples", "97", "--runs_dir", str(tmp_path)]
    assert train([*args, *WHOLE, "--run_name", "one"]) == 0
    finish_ranks(2, *args, "--trainer.max_epochs", "2", "--run_name", "parts")
    one, parts = (tmp_path / "tiny" / name for name in ("one", "parts"))
    go_on = ["--resume", str(parts), "--runs_dir", str(tmp_path), *WHOLE]
    if number == 1:
        assert train([*go_on, *devices(1, "auto")]) == 0
    else:
        finish_ranks(number, *go_on)
    assert_close(parts, one, ["val/acc", "val/loss", "test/acc", "test/loss", "steps", "epochs"])
    assert steps_logged(parts) == list(range(20))
    assert json.loads((parts / "environment.json").read_text())["num_devices"] == number
