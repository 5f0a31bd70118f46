"""The script for SLURM, stopped and queued up again, with stand-ins for SLURM's own commands."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from src.train import main as train
from tests.lightkeel.commands import same
from tests.lightkeel.conftest import TINY
from tests.lightkeel.places import ROOT

SCRIPT = ROOT / "scripts" / "train.sbatch"
LONG = [
    *TINY,
    *("--trainer.max_epochs", "60", "--callbacks.early_stopping", "null"),
    *("--model.lr_scheduler", "null", "--callbacks.progress.interval_s", "0"),
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Where ``srun`` notes the process that it starts, and ``scontrol`` what it is asked."""
    stand_ins = {
        "srun": f'echo $$ > {tmp_path}/process\nexec "$@"\n',
        "scontrol": f'echo "$@" >> {tmp_path}/asked\n',
    }
    for name, text in stand_ins.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    path_ = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    job = {"SLURM_JOB_ID": "7", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return {**os.environ, **job, "PATH": path_}


@pytest.mark.slow
def test_stop_and_requeue(tmp_path: Path, environment: dict[str, str]) -> None:
    runs = tmp_path / "runs"
    command = ["bash", str(SCRIPT), *LONG, "--runs_dir", str(runs)]
    job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert job.stdout is not None
    job.stdout.readline()  # it trains
    os.kill(int((tmp_path / "process").read_text()), signal.SIGUSR1)
    job.communicate(timeout=60)
    assert job.returncode == 143
    assert (tmp_path / "asked").read_text() == "requeue 7\n"

    again = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    (run,) = (runs / "tiny").iterdir()
    assert run.name == "job-7"
    assert train([*LONG, "--runs_dir", str(tmp_path), "--run_name", "whole"]) == 0
    assert same(run, tmp_path / "tiny" / "whole")


@pytest.mark.slow
def test_jobs_of_one_experiment_keep_apart(tmp_path: Path) -> None:
    """``--resume auto`` with a name means the run of that name alone."""
    args = [*TINY, "--runs_dir", str(tmp_path), "--resume", "auto", "--run_name"]
    assert train([*args, "job-1"]) == 0
    (tmp_path / "tiny/job-1/metrics.json").unlink()
    before = (tmp_path / "tiny/job-1/config.yaml").stat().st_mtime_ns
    assert train([*args, "job-2"]) == 0
    assert (tmp_path / "tiny/job-1/config.yaml").stat().st_mtime_ns == before
    assert train([*args, "job-1"]) == 0
    metrics = [json.loads((p / "metrics.json").read_text()) for p in (tmp_path / "tiny").iterdir()]
    assert [found["steps"] for found in metrics] == [6, 6]


def test_a_folder_without_a_checkpoint_is_used_again(tmp_path: Path) -> None:
    """As of a job that failed before its first checkpoint."""
    folder = tmp_path / "tiny" / "job-1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed_everything: 3\n")
    (folder / "metrics.csv").write_text("step,epoch\n0,0\n")
    args = [*TINY, "--runs_dir", str(tmp_path), "--resume", "auto", "--run_name", "job-1"]
    assert train(args) == 0
    assert "seed_everything: 0" in (folder / "config.yaml").read_text()
    assert (folder / "metrics.csv").read_text().count("\n0,") == 1
