"""The library in a folder without the template: a model, a config and a script of ten lines."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.lightkeel.places import ROOT
from tests.lightkeel.soak import content, differences

MODEL = '''
"""A plain module and plain data, as Lightning's documentation has them."""

import os
import signal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

DIES = os.environ.get("DIES_AT", "0 SIGKILL").split()


class Points(LightningDataModule):
    def __init__(self, batch_size: int = 8):
        super().__init__()
        x = torch.linspace(-1, 1, 64).reshape(32, 2)
        self.points, self.batch_size = TensorDataset(x, x.sum(1)), batch_size

    def train_dataloader(self):
        return DataLoader(self.points, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.points, self.batch_size)

    test_dataloader = val_dataloader


class Net(LightningModule):
    def __init__(self, hidden: int = 4, lr: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        parts = [torch.nn.Linear(2, hidden), torch.nn.Dropout(0.2), torch.nn.Linear(hidden, 1)]
        self.net = torch.nn.Sequential(*parts, torch.nn.Flatten(0))

    def training_step(self, batch, batch_idx):
        if self.global_step == int(DIES[0]) > 0:
            os.kill(os.getpid(), getattr(signal, DIES[1]))
        loss = mse_loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", mse_loss(self.net(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)
'''
SCRIPT = """
import sys

from lightkeel import Project
from lightkeel.commands import {command}

PROJECT = Project("model", default_config="own")

if __name__ == "__main__":
    sys.exit({command}.main(PROJECT))
"""
CONFIG = """
model: Net
data: Points
trainer: {accelerator: cpu, max_epochs: 3, log_every_n_steps: 1}
callbacks: {plots: null, checkpoint: {every_n_steps: 1}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    for command in ("train", "evaluate"):
        (tmp_path / f"{command}.py").write_text(SCRIPT.format(command=command).lstrip())
        assert len((tmp_path / f"{command}.py").read_text().splitlines()) <= 10
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "own.yaml").write_text(CONFIG)
    return tmp_path


def python(folder: Path, *args: str, dies_at: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if dies_at:
        env["DIES_AT"] = dies_at
    command: Sequence[str] = [sys.executable, *args]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )


TYPOS = {
    "--model.hiden=5": "model.hiden: Net has no such option. Did you mean `hidden`?",
    "--trainer.max_epoch=5": "trainer.max_epoch: trainer has no such option. "
    "Did you mean `max_epochs`?",
    "--config=ownn": "--config ownn: no such config. Did you mean `own`? Available: own.",
}


def test_a_typo_is_answered_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))  # names are learnt once
    for arg, message in TYPOS.items():
        done = python(folder, "train.py", arg)
        assert (done.returncode, done.stderr) == (2, f"error: {message}\n")
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_a_run_that_was_stopped_is_resumed_as_it_says(folder: Path) -> None:
    done = python(folder, "train.py", "--run_name", "run", dies_at="5 SIGTERM")
    run = "runs/own/run"
    assert done.returncode == 143
    assert done.stderr.endswith(f"stopped: {run}\nresume: python train.py --resume {run}\n")
    said = re.findall(r"resume: python (.*)", done.stderr)[0]
    done = python(folder, *shlex.split(said))
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / run / "metrics.json").read_text())
    assert sorted(name for name in metrics if "loss" in name) == [
        *("test_loss", "train_loss", "val_loss"),
    ]


@pytest.mark.slow
def test_trains_is_killed_resumes_and_evaluates(folder: Path) -> None:
    done = python(folder, "train.py", "--run_name", "run")
    assert done.returncode == 0, done.stderr
    run = folder / "runs" / "own" / "run"
    whole = run.rename(folder / "whole")
    args = ("train.py", "--run_name", "run", "--resume", "auto")
    assert python(folder, *args, dies_at="6 SIGKILL").returncode == -signal.SIGKILL
    done = python(folder, *args)
    assert done.returncode == 0, done.stderr
    assert differences(content(whole), content(run)) == []
    done = python(folder, "evaluate.py", "runs/own/run")
    assert done.returncode == 0, done.stderr
    assert "test_loss" in done.stdout
