import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from lightkeel.callbacks import progress
from lightkeel.callbacks.progress import Fitted, Progress, format_metrics
from tests.lightkeel.fitting import Given, Line, Stream, fit

MANY_S = 1e6


class Stop(Callback):
    """Ends training after the second epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 1


def train(folder: Path, *callbacks: Callback, **options: Any) -> None:
    """Train a model that always predicts 0 on targets 1, 2, 3: losses 1, 4, 9."""
    model = Line(optimizer={"name": "SGD", "lr": 0.0})
    data = Given(torch.zeros(3, 1), torch.tensor([1.0, 2.0, 3.0]), batch_size=1)
    fit(folder, model, data, *callbacks, enable_progress_bar=True, **options)


@pytest.mark.parametrize(
    ("interval_s", "options", "lines"),
    [
        (
            0.0,
            {"max_epochs": 2, "log_every_n_steps": 2},
            [
                "epoch 1/2  batch 1/3  train/loss_step 1",
                "epoch 1/2  batch 2/3  train/loss_step 4",
                "epoch 1/2  batch 3/3  train/loss_step 4",
                "epoch 2/2  batch 1/3  train/loss_step 1",
                "epoch 2/2  batch 2/3  train/loss_step 1",
                "epoch 2/2  batch 3/3  train/loss_step 9",
                "epoch 2/2  batch 3/3  train/loss_step 9",
            ],
        ),
        (
            MANY_S,
            {"max_epochs": 2, "limit_val_batches": 2},
            ["epoch 2/2  batch 3/3  train/loss_step 9  val/loss 2.5"],
        ),
        (MANY_S, {"max_steps": 4}, ["epoch 2  batch 1/3  train/loss_step 1"]),
        (MANY_S, {"max_epochs": 9, "max_steps": 5}, ["epoch 2/9  batch 2/3  train/loss_step 4"]),
        (MANY_S, {"limit_train_batches": 2}, ["epoch 1/1  batch 2/2  train/loss_step 4"]),
        (MANY_S, {"max_epochs": 0}, []),
    ],
)
def test_lines_in_a_pipe(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    interval_s: float,
    options: dict[str, Any],
    lines: list[str],
) -> None:
    train(tmp_path, Progress(interval_s), **options)
    assert capsys.readouterr().out.splitlines() == lines


def test_run_that_ends_early_tells_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, Progress(MANY_S), Stop(), max_epochs=9)
    assert capsys.readouterr().out == "epoch 2/9  batch 3/3  train/loss_step 9\n"


def test_switched_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(0.0)
    bar.disable()
    train(tmp_path, bar)
    assert capsys.readouterr().out == ""
    bar.enable()
    train(tmp_path, bar)
    assert len(capsys.readouterr().out.splitlines()) == 4


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(progress, "BAR_INTERVAL_S", 0.0)
    for name, value in {"TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    train(tmp_path, Progress(MANY_S), max_epochs=2)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    found = re.findall(r"(epoch \d/\d) \S+ (\d/\d) \S+ *(\S* ?\S*)", shown)
    assert list(dict.fromkeys((epoch, batch) for epoch, batch, _ in found)) == [
        *(("epoch 1/2", f"{batch}/3") for batch in (1, 2, 3)),
        *(("epoch 2/2", f"{batch}/3") for batch in (1, 2, 3)),
    ]
    assert found[-1][2] == "train/loss_step 9"
    assert "\x1b[?25h" in terminal.getvalue()  # the cursor is back


@pytest.mark.parametrize(
    ("width", "shown"), [(37, "a 1.234  b 5"), (12, "a 1.234  b 5"), (11, "a 1.234"), (6, "")]
)
def test_no_number_is_cut_in_the_bar(width: int, shown: str) -> None:
    terminal = io.StringIO()
    Console(width=width, file=terminal).print(Fitted("a 1.234  b 5"))
    assert terminal.getvalue() == f"{shown}\n"


def test_number_from_the_first_step_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row of metrics is due, and it is read anew where it is stale."""
    monkeypatch.setattr(progress, "STALE_S", MANY_S)
    train(tmp_path / "fresh", Progress(0.0), max_epochs=1, log_every_n_steps=100)
    monkeypatch.setattr(progress, "STALE_S", 0.0)
    train(tmp_path / "stale", Progress(0.0), max_epochs=1, log_every_n_steps=100)
    found = re.findall(r"train/loss_step (\d)", capsys.readouterr().out)
    assert found == ["1", "1", "1", "9", "1", "4", "9", "9"]


def test_bar_ends_with_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise RuntimeError("broken")

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    bar = Progress()
    with pytest.raises(RuntimeError, match="broken"):
        train(tmp_path, Broken(), bar)
    assert bar._bar is None
    assert terminal.getvalue().endswith("\x1b[?25h")


def test_metrics_in_one_line() -> None:
    metrics = {"val/acc": 0.123456, "train/loss": 1.0, "train/loss_step": 2e-7, "lr": 0.1}
    assert format_metrics(metrics | {"acc": 1.0}) == "train/loss_step 2e-07  val/acc 0.1235  acc 1"
    assert format_metrics({"train/loss": 1.0}) == "train/loss 1"
    # as plain modules name them, and as `self.log` does over steps and epochs
    plain = {"g_loss": 2.0, "val_loss": 3.0, "samples_per_s": 4.0, "grad/norm": 5.0, "lr/0": 6.0}
    both = {"fit": 7.0, "fit_step": 7.0, "fit_epoch": 8.0}
    assert format_metrics(plain | both) == "fit_step 7  val_loss 3  g_loss 2"


def test_negative_interval_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^interval_s: -1 is not at least 0\.$"):
        Progress(-1)


@pytest.mark.filterwarnings("ignore:.*(this fit will run with no optimizer|many workers)")
def test_stream_of_unknown_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Nothing(LightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            """Nothing."""

        def configure_optimizers(self) -> None:
            return None

    fit(tmp_path, Nothing(), Stream(), Progress(0.0), enable_progress_bar=True)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"epoch 1/1  batch {number}" for number in (1, 2, 3, 4, 4)]
