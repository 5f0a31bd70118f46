"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from src.train import main as train

torch.set_num_threads(1)  # tensors are tiny here, and another process may want the other core

# Small enough for tests, with every moving part of the CIFAR-10 experiment.
TINY_IMAGES = [
    *("--config", "cifar10_synthetic"),
    *("--data.num_samples", "96", "--data.num_val_samples", "20", "--data.num_test_samples", "30"),
    *("--data.batch_size", "32", "--data.val_batch_size", "16", "--model.channels", "[4,4]"),
    *("--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"),
]


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Undo what a run leaves in the environment, such as Lightning's seed."""
    before = dict(os.environ)
    os.environ.pop("PL_GLOBAL_SEED", None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def regression_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of the default experiment, not to be written to."""
    runs = tmp_path_factory.mktemp("regression")
    assert train(["--runs_dir", str(runs), "--run_name", "run"]) == 0
    return runs / "linear_regression" / "run"


@pytest.fixture(scope="session")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished tiny run of SimpleCNN, not to be written to."""
    runs = tmp_path_factory.mktemp("images")
    assert train([*TINY_IMAGES, "--runs_dir", str(runs), "--run_name", "run"]) == 0
    return runs / "cifar10_synthetic" / "run"
