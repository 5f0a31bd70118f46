"""What callbacks log of a step: in one row, where loggers and callbacks look for it."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightkeel import is_row_due
from lightkeel.fit.run_files import RunFiles
from lightkeel.runs.loggers import MetricsCSV
from tests.lightkeel.fitting import Given, Line, Rows, fit


class Reader(Callback):
    """Log three values of each step that a row is written of."""

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, _: Any) -> None:
        if is_row_due(trainer, module):
            step = trainer.global_step + 1
            exact = torch.tensor(0.1, dtype=torch.float64)
            values: dict[str, Any] = {
                "exact": exact,
                "on device": torch.tensor(step / 4),
                "wide": float(step),
            }
            module.log_dict(values)


def data() -> Given:
    return Given(torch.zeros(6, 1), torch.zeros(6), batch_size=1)


def test_values_reach_loggers_and_callbacks(tmp_path: Path) -> None:
    logger = Rows()
    trainer = fit(tmp_path, Line(), data(), Reader(), logger=logger, log_every_n_steps=2)
    assert logger.column("exact") == {1: 0.1, 3: 0.1, 5: 0.1}  # no float32 in between
    assert logger.column("on device") == {1: 0.5, 3: 1.0, 5: 1.5}
    assert logger.column("wide") == {1: 2, 3: 4, 5: 6}
    assert all(values["epoch"] == 0 for _, values in logger.rows)
    for known in (trainer.callback_metrics, trainer.logged_metrics):
        assert float(known["on device"]) == 1.5
        assert float(known["exact"]) == pytest.approx(0.1)


@pytest.mark.parametrize("every", [0, 1, 2])
def test_a_row_holds_all_of_a_step(tmp_path: Path, every: int) -> None:
    logger = MetricsCSV(tmp_path)
    fit(tmp_path, Line(), data(), Reader(), logger=logger, log_every_n_steps=every, max_epochs=2)
    with logger.path.open() as file:
        rows = list(csv.DictReader(file))
    steps = [row for row in rows if row.get("wide")]
    expected = range(every - 1, 12, every) if every else range(0)
    assert [int(row["step"]) for row in steps] == list(expected)
    assert all(row["train/loss_step"] == "0.0" for row in steps)
    epochs = [row for row in rows if row["train/loss"]]
    assert [(row["step"], row["epoch"]) for row in epochs] == [("5", "0"), ("11", "1")]
    assert len(rows) == len(steps) + len(epochs)


def test_a_row_is_on_disk_when_the_next_step_begins(tmp_path: Path) -> None:
    logger, seen = MetricsCSV(tmp_path), []

    class Look(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            seen.append(len(logger.path.read_text().splitlines()) if logger.path.exists() else 0)

    fit(tmp_path, Line(), data(), Reader(), Look(), logger=logger)
    assert seen == [0, 2, 3, 4, 5, 6]  # with the header


class Axis(Line):
    """Logs its epoch as the step, or as the epoch, for TensorBoard's axis."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        for name in self.names:
            self.log(name, 5.0 + self.current_epoch)
        self.log("mine", float(batch_idx))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("seen", float(batch_idx), on_step=True, on_epoch=True)
        self.log("step", 5.0 + self.current_epoch)


@pytest.mark.parametrize("names", [(), ("step",), ("epoch",), ("step", "epoch")])
def test_a_model_that_logs_its_own_axis_tears_no_row(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    model, logger, files = Axis(*names), MetricsCSV(tmp_path), RunFiles(tmp_path, "")
    options: dict[str, Any] = {"log_every_n_steps": 2, "max_epochs": 2, "limit_val_batches": 2}
    fit(tmp_path, model, data(), files, Reader(), logger=logger, **options)
    with logger.path.open() as file:
        rows = list(csv.DictReader(file))

    def places(name: str) -> list[tuple[int, int]]:
        return [(int(row["epoch"]), int(row["step"])) for row in rows if row[name]]

    odd = [(step // 6, step) for step in range(1, 12, 2)]
    assert places("mine") == places("wide") == places("train/loss_step") == odd
    assert places("seen_step") == [(0, 5), (0, 5), (1, 11), (1, 11)]
    assert places("seen_epoch") == [(0, 5), (1, 11)]
    assert [row["mine"] for row in rows if row["wide"]] == ["1.0", "3.0", "5.0"] * 2
