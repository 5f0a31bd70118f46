from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from lightkeel.callbacks.checkpoint import Checkpoint
from lightkeel.fit.exact_resume import ExactResume
from tests.lightkeel.fitting import Given, Line, fit

SCORES = [0.3, 0.1, 0.7, 0.2]


class Scored(Line):
    """Logs a score and a loss of each epoch that were given to it."""

    def on_validation_epoch_end(self) -> None:
        score = SCORES[self.trainer.current_epoch]
        self.log_dict({"val/score": score, "val/loss": -score})


class Recorded(Checkpoint):
    """Remembers the steps at which it wrote ``last.ckpt``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.steps: list[int] = []

    def write_last(self, trainer: Trainer) -> None:
        self.steps.append(trainer.global_step)
        super().write_last(trainer)


def data(num_batches: int) -> Given:
    return Given(torch.ones(num_batches, 1), torch.ones(num_batches), batch_size=1)


def read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "checkpoints" / f"{name}.ckpt"
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize(
    ("model", "settings", "options", "best_epoch"),
    [
        (Scored(), {"monitor": "val/score", "mode": "min"}, {}, 1),
        (Scored(), {"monitor": "val/score", "mode": "max"}, {}, 2),
        (Scored(), {}, {}, 2),  # val/loss
        (Scored(), {"mode": "max"}, {}, 1),
        (Scored(), {"monitor": "val/loss"}, {"val_check_interval": 0.5}, 2),
        (Scored(), {"monitor": "val/loss"}, {"check_val_every_n_epoch": 2}, 3),
        (Scored(), {}, {"limit_val_batches": 0}, 3),  # nothing to watch: the last
    ],
)
def test_best_and_last(
    tmp_path: Path,
    model: Scored,
    settings: dict[str, Any],
    options: dict[str, Any],
    best_epoch: int,
) -> None:
    checkpoint = Checkpoint(**settings)
    options = {"limit_val_batches": 1, "max_epochs": 4, **options}
    fit(tmp_path, model, data(2), checkpoint, **options)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["best.ckpt", "last.ckpt"]
    best, last = read(tmp_path, "best"), read(tmp_path, "last")
    # The best is written when it has been validated, and without validation when the epoch is over.
    done = best_epoch + (options["limit_val_batches"] == 0)
    assert (best["epoch"], last["epoch"], last["global_step"]) == (done, 4, 8)
    assert last["callbacks"][checkpoint.state_key] == checkpoint.state_dict()  # written after best
    assert checkpoint.best_model_path == str(folder / "best.ckpt")
    assert checkpoint.last_model_path == str(folder / "last.ckpt")
    for name, value in model.state_dict().items():
        assert value.equal(last["state_dict"][name])


@pytest.mark.parametrize(
    ("every_n_steps", "options", "steps"),
    [
        (None, {"max_epochs": 2}, [5, 10]),
        (2, {"max_epochs": 2}, [2, 4, 5, 6, 8, 10]),
        (7, {"max_epochs": 2}, [5, 7, 10]),
        (2, {"max_epochs": 2, "accumulate_grad_batches": 2}, [2, 3, 4, 6]),
        (2, {"max_steps": 4}, [2, 4]),  # not again as if the epoch were whole
        (None, {"max_steps": 7}, [5, 7]),
    ],
)
def test_last_is_written_every_n_steps_and_each_epoch(
    tmp_path: Path, every_n_steps: int | None, options: dict[str, Any], steps: list[int]
) -> None:
    checkpoint = Recorded(every_n_steps=every_n_steps)
    fit(tmp_path, Line(), data(5), ExactResume(), checkpoint, **options)
    assert checkpoint.steps == steps
    assert read(tmp_path, "last")["global_step"] == steps[-1]


def test_resumed_run_writes_nothing_within_its_first_step(tmp_path: Path) -> None:
    """Between the batches of a step, gradients are in no checkpoint."""
    options: dict[str, Any] = {"accumulate_grad_batches": 2}
    fit(tmp_path, Line(), data(4), ExactResume(), Recorded(every_n_steps=1), **options)
    again, last = Recorded(every_n_steps=1), tmp_path / "checkpoints" / "last.ckpt"
    options |= {"ckpt_path": last, "max_epochs": 2}
    fit(tmp_path, Line(), data(4), ExactResume(), again, **options)
    assert again.steps == [3, 4]


def test_best_is_remembered_over_a_resumption(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    settings: dict[str, Any] = {"monitor": "val/score", "mode": "min"}
    fit(tmp_path, Scored(), data(1), Checkpoint(**settings), max_epochs=2, limit_val_batches=1)
    again = Checkpoint(**settings)
    fit(tmp_path, Scored(), data(1), again, ckpt_path=last, max_epochs=4, limit_val_batches=1)
    assert again.best_model_score == pytest.approx(0.1)
    assert (read(tmp_path, "best")["epoch"], read(tmp_path, "last")["epoch"]) == (1, 4)


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    fit(tmp_path, Line(), data(2), Checkpoint(every_n_steps=1), fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []


def test_no_steps_between_two_writes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^every_n_steps: 0 is not at least 1\.$"):
        Checkpoint(every_n_steps=0)
