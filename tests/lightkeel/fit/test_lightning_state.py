"""Each name of Lightning's that exact resuming needs and that is not documented is still there."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultMetric,
    _Sync,
)
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

from lightkeel.fit import lightning_state
from lightkeel.fit.lightning_state import LOGGED, SEAMS, check_seams


class Without:
    """An object as it would be had one of its attributes moved."""

    def __init__(self, whole: Any, path: str) -> None:
        self.whole = whole
        self.name, _, self.rest = path.partition(".")

    def __getattr__(self, name: str) -> Any:
        if name != self.name:
            return getattr(self.whole, name)
        if not self.rest:
            raise AttributeError(name)
        return Without(getattr(self.whole, name), self.rest)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


@pytest.mark.parametrize("path", SEAMS)
def test_a_seam_of_the_trainer_is_there_and_missed_by_name(path: str, trainer: Trainer) -> None:
    check_seams(trainer)
    moved: Any = Without(trainer, path)
    with pytest.raises(AssertionError, match=rf"has no `trainer\.{path}` .*docs/lightning\.md"):
        check_seams(moved)


@pytest.mark.parametrize("name", LOGGED)
def test_a_seam_of_what_is_logged_is_missed_by_name(
    name: str, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(*args: Any, **kwargs: Any) -> Any:
        return Without(_ResultMetric(*args, **kwargs), name)

    monkeypatch.setattr(lightning_state, "_ResultMetric", make)
    with pytest.raises(AssertionError, match=rf"has no `_ResultMetric\.{name}`"):
        check_seams(trainer)


def test_counters_of_a_checkpoint_name_the_place_where_it_is_written() -> None:
    """Two epochs and a half: the third was begun, and its fourth batch not yet thought of."""

    def progress(ready: int, started: int, processed: int, completed: int) -> dict[str, Any]:
        counts = {"ready": ready, "started": started}
        counts |= {"processed": processed, "completed": completed}
        return {"total": dict(counts), "current": dict(counts)}

    loop = {
        "epoch_progress": progress(3, 3, 3, 2),
        "epoch_loop.batch_progress": progress(4, 3, 3, 3),
        "epoch_loop.val_loop.batch_progress": progress(5, 5, 5, 4),
    }
    broken_off: Any = type("", (), {"is_last_batch": False})
    lightning_state.repair_counters(broken_off, {"loops": {"fit_loop": loop}})
    assert loop == {
        "epoch_progress": progress(3, 3, 2, 2),
        "epoch_loop.batch_progress": progress(3, 3, 3, 3),
        "epoch_loop.val_loop.batch_progress": progress(1, 1, 0, 0),
    }
    between_epochs = {**loop, "epoch_progress": progress(4, 3, 3, 3)}
    lightning_state.repair_counters(broken_off, {"loops": {"fit_loop": between_epochs}})
    assert between_epochs["epoch_progress"] == progress(3, 3, 3, 3)


def test_how_loaders_are_combined_is_told() -> None:
    loader = CombinedLoader([torch.zeros(2), torch.zeros(3)], "min_size")
    assert lightning_state.combination(loader) == "min_size"


def test_means_over_ranks_are_over_samples() -> None:
    """Three samples of sum 3 here, and two of sum 4 on another rank."""

    def average(value: Tensor, reduce_op: str, group: Any) -> Tensor:
        there = 2 if seen else 4  # first the sums are averaged, then the numbers of samples
        seen.append(value)
        return ((value + there) / 2).to(value.dtype)  # whole numbers are rounded down

    meta = _Metadata("validation_step", "val/loss")
    meta.sync = _Sync(average, True)
    result = _ResultMetric(meta, is_tensor=True)
    result.update(torch.tensor(1.0), 3)
    seen: list[Tensor] = []
    assert float(lightning_state.COMPUTE(result)) == 3.5 / 2  # Lightning's own
    seen.clear()
    with lightning_state.exact_means():
        assert float(_ResultMetric.compute(result)) == pytest.approx(7 / 5)
