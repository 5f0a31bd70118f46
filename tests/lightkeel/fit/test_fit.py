"""What a run reports when it has ended."""

from types import SimpleNamespace
from typing import Any

import torch

from lightkeel.fit.fit import results


def test_what_was_logged_by_step_and_epoch_has_one_name() -> None:
    """Unless the name is all there is: a person may end one so."""
    names = ["loss", "loss_step", "loss_epoch", "val/acc_epoch", "time_step", "loss_step/more"]
    names += ["val_loss/dataloader_idx_0", "val_loss_epoch/dataloader_idx_0"]
    logged = {name: torch.tensor(float(number)) for number, name in enumerate(names)}
    trainer: Any = SimpleNamespace(callback_metrics=logged)
    assert results(trainer) == {
        "loss": 0.0,
        "val/acc_epoch": 3.0,
        "time_step": 4.0,
        "loss_step/more": 5.0,
        "val_loss/dataloader_idx_0": 6.0,
    }
