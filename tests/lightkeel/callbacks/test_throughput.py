from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader

from lightkeel.callbacks import throughput
from lightkeel.callbacks.checkpoint import Checkpoint
from lightkeel.callbacks.throughput import Throughput
from tests.lightkeel.fitting import Given, Line, Rows, fit


class Timed(Line):
    """A step takes 1 s, one of validation 100 s, a checkpoint 10,000 s."""

    now = 0.0

    def training_step(self, *args: Any) -> Any:
        Timed.now += 1
        return super().training_step(*args)

    def validation_step(self, *args: Any) -> Any:
        Timed.now += 100
        return super().validation_step(*args)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        Timed.now += 10_000


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: Timed.now))
    usage = SimpleNamespace(ru_maxrss=3 * 2**20)
    fake = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
    monkeypatch.setattr(throughput, "resource", fake)


def train(
    folder: Path, measured: Throughput, *callbacks: Callback, **options: Any
) -> dict[int, float]:
    logger = Rows()
    data = Given(torch.zeros(7, 1), torch.zeros(7), batch_size=3)
    fit(folder, Timed(), data, measured, *callbacks, logger=logger, **options)
    return logger.column("samples_per_s")


@pytest.mark.parametrize("saving", [False, True])
@pytest.mark.parametrize(
    ("options", "samples", "seconds", "rates"),
    [
        ({"max_epochs": 2}, 14, 6, {2: 7 / 3, 5: 7 / 3}),
        ({"max_epochs": 2, "limit_val_batches": None}, 14, 6, {2: 7 / 3, 5: 7 / 3}),
        ({"limit_val_batches": 1, "val_check_interval": 1}, 7, 3, {2: 7 / 3}),
        ({"limit_val_batches": 1, "num_sanity_val_steps": 1}, 7, 3, {2: 7 / 3}),
        ({"max_steps": 2}, 6, 2, {1: 3}),
        ({"max_steps": 4}, 10, 4, {2: 7 / 3, 3: 3}),
        ({"accumulate_grad_batches": 2}, 7, 3, {1: 7 / 3}),
    ],
)
def test_training_alone_is_measured(
    tmp_path: Path,
    options: dict[str, Any],
    samples: int,
    seconds: float,
    rates: dict[int, float],
    saving: bool,
) -> None:
    measured = Throughput()
    assert measured.samples_per_s == 0.0
    callbacks = [Checkpoint(every_n_steps=1)] if saving else []
    assert train(tmp_path, measured, *callbacks, **options) == pytest.approx(rates)
    assert (measured.num_samples, measured.train_seconds) == (samples, seconds)
    assert measured.samples_per_s == samples / seconds


@pytest.mark.parametrize(("platform", "mib"), [("linux", 3 * 2**10), ("darwin", 3)])
def test_memory_is_in_mib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, mib: float
) -> None:
    monkeypatch.setattr(throughput, "sys", SimpleNamespace(platform=platform))
    logger = Rows()
    data = Given(torch.zeros(1, 1), torch.zeros(1))
    fit(tmp_path, Line(), data, Throughput(), logger=logger)
    assert logger.column("memory_mib") == {0: mib}


@dataclass
class Pair:
    x: torch.Tensor
    y: torch.Tensor


THREE, NONE = torch.zeros(3, 2), torch.tensor(1.0)


@pytest.mark.parametrize(
    ("batch", "number"),
    [
        (THREE, 3),
        ([THREE, torch.zeros(4)], 3),
        ({"inputs": THREE}, 3),
        (({"left": THREE}, THREE), 3),
        (Pair(THREE, THREE), 3),
        ((["first", "second", "third"], torch.zeros(4)), 3),
        ([1, 2.0, 3], 3),
        ((NONE, THREE), 3),
        ((None, THREE), 3),
        (pack_sequence([torch.zeros(n) for n in (4, 2, 1)]), 3),
        (NONE, None),
        ((), None),
        (None, None),
        (SimpleNamespace(x=THREE), None),
    ],
)
def test_samples_of_any_batch(batch: Any, number: int | None) -> None:
    assert throughput.count_samples(batch) == number


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_what_cannot_be_counted_is_not(tmp_path: Path) -> None:
    class Uncounted(Line):
        def training_step(self, *args: Any) -> Any:
            return super().training_step((torch.zeros(2, 1), torch.zeros(2)), 0)

    class Objects(LightningDataModule):
        def train_dataloader(self) -> Any:
            alone: Any = torch.zeros(1)
            return DataLoader(alone, collate_fn=lambda _: SimpleNamespace(x=THREE))

    logger, measured = Rows(), Throughput()
    fit(tmp_path, Uncounted(), Objects(), measured, logger=logger)
    assert logger.column("samples_per_s") == {}
    assert logger.column("memory_mib") == {0: 3 * 2**10}
    assert measured.num_samples == 0
