"""Runs that are killed and resumed end as if they had not been."""

from pathlib import Path

import pytest
import torch

from tests.lightkeel.conftest import TINY
from tests.lightkeel.soak import differences, flat, resume_everywhere, survives_kills

# Everything whose state a checkpoint must hold.
EVERYTHING = [
    *TINY,
    *("--callbacks.checkpoint.every_n_steps", "1", "--trainer.log_every_n_steps", "2"),
    *("--callbacks.gradient_accumulation.batches", "2", "--data.batch_size", "16"),
    *("--model.dropout", "0.3"),
    *("--callbacks.gradient_norms.every_n_steps", "2"),
]


def test_kills(tmp_path: Path) -> None:
    survives_kills(3, tmp_path, *EVERYTHING)


@pytest.mark.slow  # of a few: test_kills; without the command line: test_exact_resume.py
@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="step"),
        pytest.param(
            ["--model.lr_scheduler", "{name: StepLR, step_size: 1, gamma: 0.5}"],
            id="epoch",
        ),
        pytest.param(
            ["--model.lr_scheduler", "{name: ReduceLROnPlateau, patience: 0, threshold: 1.0}"],
            id="plateau",
        ),
        pytest.param(["--trainer.val_check_interval", "0.5"], id="twice"),
        pytest.param(
            ["--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "3"],
            id="every second",
        ),
        pytest.param(
            ["--trainer.limit_val_batches", "0", "--callbacks.checkpoint.monitor", "train/loss"],
            id="never",
        ),
    ],
)
def test_each_checkpoint_can_be_gone_on_from(options: list[str], tmp_path: Path) -> None:
    stops = (
        ["--callbacks.early_stopping", "null"] if "--trainer.limit_val_batches" in options else []
    )
    assert resume_everywhere([*EVERYTHING, *options, *stops], tmp_path) == []


def test_differences_are_found() -> None:
    one = {"a": {"b": [torch.ones(2), 1.5, float("nan")]}, "c": "x"}
    assert list(dict(flat(one))) == [".a.b.0", ".a.b.1", ".a.b.2", ".c"]
    assert differences(dict(flat(one)), dict(flat(one))) == []
    changed = [
        {"a": {"b": [torch.ones(2).nextafter(torch.zeros(2)), 1.5, float("nan")]}, "c": "x"},
        {"a": {"b": [torch.ones(2), 1.5000001, float("nan")]}, "c": "x"},
        {"a": {"b": [torch.ones(2), 1.5]}, "c": "x"},
        {**one, "d": 0},
    ]
    found = [differences(dict(flat(one)), dict(flat(other))) for other in changed]
    assert found == [[".a.b.0"], [".a.b.1"], [".a.b.2"], [".d"]]
