import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightkeel.callbacks.checkpoint import Checkpoint
from lightkeel.callbacks.graceful_stop import GracefulStop
from lightkeel.fit.exact_resume import ExactResume
from lightkeel.fit.run_files import RunFiles
from lightkeel.runs.loggers import MetricsCSV
from tests.lightkeel.fitting import Line, fit, noisy_line

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


TWICE = {"val_check_interval": 0.5}  # an epoch


class Send(Callback):
    """Sends a signal to its own process, at the start of a batch or of a validation."""

    def __init__(
        self, number: int, batch: int | None = None, validation: int | None = None
    ) -> None:
        self.number, self.batch, self.validation = number, batch, validation
        self.num_batches = self.num_validations = 0
        self.handlers: list[Any] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.num_batches += 1
        if self.num_batches == self.batch:
            os.kill(os.getpid(), self.number)

    def on_validation_start(self, *args: Any) -> None:
        self.num_validations += 1
        if self.num_validations == self.validation:
            os.kill(os.getpid(), self.number)

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, _: Any) -> None:
        self.handlers = [signal.getsignal(number) for number in NUMBERS]


def train(folder: Path, *callbacks: Callback, **options: Any) -> tuple[list[float], Trainer]:
    """Train on eight batches an epoch."""
    model = Line(num_features=2, optimizer={"name": "SGD", "lr": 0.1, "momentum": 0.9})
    data = noisy_line(32, batch_size=4)
    first = (ExactResume(), GracefulStop())
    made = fit(folder, model, data, *first, *callbacks, **{"max_epochs": 2, **options})
    return model.weights, made


@pytest.mark.parametrize(
    ("sent", "options", "status", "step"),
    [
        (Send(signal.SIGTERM, batch=5), {}, 143, 5),
        (Send(signal.SIGINT, batch=5), {}, 130, 5),
        (Send(signal.SIGTERM, batch=8), {}, 143, 8),
        (Send(signal.SIGTERM, batch=11), {}, 143, 11),
        # Within an accumulated step: after it.
        (Send(signal.SIGTERM, batch=4), {"accumulate_grad_batches": 3}, 143, 2),
        (Send(signal.SIGTERM, batch=6), {"accumulate_grad_batches": 3}, 143, 2),
        (Send(signal.SIGUSR1, batch=5), {}, 143, 5),
        (Send(signal.SIGHUP, batch=5), {}, 129, 5),
        # In validation: after the batch, which need not be the last.
        (Send(signal.SIGINT, validation=1), {"limit_val_batches": 3}, 130, 8),
        (Send(signal.SIGINT, validation=2), {"limit_val_batches": 3}, 130, 16),
        (Send(signal.SIGTERM, validation=1), {**TWICE, "limit_val_batches": 3}, 143, 4),
    ],
)
def test_stops_after_the_step_and_saves(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    sent: Send,
    options: dict[str, Any],
    status: int,
    step: int,
) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    with pytest.raises(SystemExit) as caught:
        train(tmp_path, sent, Checkpoint(), **options)
    assert caught.value.code == status
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == step
    assert [signal.getsignal(number) for number in NUMBERS] == before
    told = "stopping after this step; once more to stop at once"
    assert capfd.readouterr().err.splitlines().count(told) == 1


class Busy:
    """A stream that is being written: Python's own cannot be entered from a signal's handler."""

    def write(self, text: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    def flush(self) -> None:
        self.write("")


def test_signal_amidst_a_write(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", Busy())
    with pytest.raises(SystemExit) as caught:
        train(tmp_path, Send(signal.SIGINT, batch=2), Checkpoint())
    assert caught.value.code == 130
    assert capfd.readouterr().err.count("stopping after this step") == 1


def test_loaders_workers_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Forks(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            if (process := os.fork()) == 0:
                os.kill(os.getpid(), signal.SIGINT)
                os._exit(0)
            os.waitpid(process, 0)

    train(tmp_path, Forks())
    assert "stopping" not in capfd.readouterr().err


def test_second_signal_ends_the_process(tmp_path: Path) -> None:
    class Look(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.append([signal.getsignal(number) for number in NUMBERS])

    seen: list[list[Any]] = []
    with pytest.raises(SystemExit):
        train(tmp_path, Send(signal.SIGTERM, batch=2), Look())
    assert [handlers[1] == signal.SIG_DFL for handlers in seen] == [False, True]


def test_nohup(tmp_path: Path) -> None:
    """A signal that is ignored stays so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        _, made = train(tmp_path, Send(signal.SIGHUP, batch=2))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert made.global_step == 16


@pytest.mark.parametrize("crash", [False, True])
def test_handlers_are_restored_after_a_run(tmp_path: Path, crash: bool) -> None:
    class Crash(Callback):
        def on_train_epoch_end(self, *args: Any) -> None:
            if crash:
                raise RuntimeError("crash")

    before = [signal.getsignal(number) for number in NUMBERS]
    recorded = Send(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="crash") if crash else nullcontext():
        train(tmp_path, recorded, Crash())
    assert [getattr(h, "__name__", "") for h in recorded.handlers] == ["_receive"] * 4
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize(
    ("sent", "options"),
    [
        (Send(signal.SIGTERM, batch=5), {}),
        (Send(signal.SIGTERM, batch=8), {}),
        (Send(signal.SIGTERM, batch=13), {}),
        (Send(signal.SIGTERM, validation=1), {}),
        (Send(signal.SIGTERM, validation=2), {}),
        (Send(signal.SIGTERM, validation=1), TWICE),
        (Send(signal.SIGTERM, validation=2), TWICE),
        (Send(signal.SIGTERM, validation=3), TWICE),
        (Send(signal.SIGTERM, validation=2), {"check_val_every_n_epoch": 2, "max_epochs": 5}),
    ],
)
def test_stopped_and_resumed_run_is_the_run_that_was_not(
    tmp_path: Path, sent: Send, options: dict[str, Any]
) -> None:
    """Weights, rows, and how often what was validated."""

    class Count(Callback):
        def __init__(self) -> None:
            self.seen: list[tuple[int, int]] = []

        def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
            self.seen.append((trainer.global_step, args[-1]))

    settings = {"limit_val_batches": 3, "log_every_n_steps": 3, **options}

    def rows(logger: MetricsCSV) -> list[str]:
        return logger.path.read_text().splitlines()

    whole, count = MetricsCSV(tmp_path / "whole"), Count()
    expected, _ = train(tmp_path / "whole", Checkpoint(), count, logger=whole, **settings)
    folder, again = tmp_path / "parts", Count()
    folder.mkdir()
    files = RunFiles(folder, "")
    first, second = MetricsCSV(folder), MetricsCSV(folder)
    with pytest.raises(SystemExit):
        train(folder, sent, Checkpoint(), files, logger=first, **settings)
    last = folder / "checkpoints" / "last.ckpt"
    found, made = train(
        folder, Checkpoint(), RunFiles(folder, ""), again, logger=second, ckpt_path=last, **settings
    )
    assert found == expected
    assert made.global_step == 8 * settings.get("max_epochs", 2)
    assert rows(second) == rows(whole)
    # What was broken off is done again, from its beginning.
    assert again.seen == count.seen[-len(again.seen) :]
    assert again.seen[0][1] == 0
