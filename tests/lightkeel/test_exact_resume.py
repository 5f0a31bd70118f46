"""A run resumed from any of its checkpoints ends bit for bit as the run that was never stopped.

The zoo has the modules and loaders that people write; here is what is harder to resume.
"""

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, TensorDataset
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lightkeel.callbacks.checkpoint import Checkpoint
from lightkeel.callbacks.graceful_stop import GracefulStop
from lightkeel.fit.exact_resume import ExactResume
from lightkeel.fit.run_files import RunFiles
from lightkeel.runs.loggers import MetricsCSV
from tests.lightkeel.fitting import fit
from tests.lightkeel.soak import differences, flat

NUM_SAMPLES, BATCH_SIZE = 24, 4


def points(num_samples: int = NUM_SAMPLES) -> TensorDataset:
    inputs = torch.linspace(-1, 1, num_samples * 2).reshape(-1, 2)
    return TensorDataset(inputs, inputs.sum(1))


class Net(LightningModule):
    """A plain module with dropout, that logs over steps and epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Dropout(0.3), nn.Linear(4, 1))
        self.mean, self.largest = MeanMetric(), MaxMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        losses = (self.net(x)[:, 0] - y).square()
        self.log("train/loss", losses.mean(), on_step=True, on_epoch=True)
        self.log("train/most", losses.max(), on_step=False, on_epoch=True, reduce_fx="max")
        self.mean(losses)
        self.largest(losses)
        self.log("train/mean", self.mean, on_step=False, on_epoch=True)
        self.log("train/largest", self.largest, on_step=True, on_epoch=True)
        loss: Tensor = losses.mean()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", (self.net(x)[:, 0] - y).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class DrawsInHooks(Net):
    """Draws random numbers of all kinds wherever a person may."""

    def on_train_start(self) -> None:
        self.noise = torch.randn(2) * 0  # as for images to be looked at
        np.random.rand()
        random.random()

    def on_train_epoch_start(self) -> None:
        self.scale = 1 + 0.1 * np.random.rand()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return x + 0.1 * torch.randn_like(x), y

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        mix = float(np.random.beta(0.4, 0.4)) + random.random()
        return super().training_step(batch, batch_idx) * mix

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val/sample", torch.rand(()) + np.random.rand() + random.random())


class ScaledFromEpochStart(Net):
    """Sets in the hook of an epoch what the steps of the epoch use, in a buffer."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def on_train_epoch_start(self) -> None:
        self.scale.fill_(float(torch.rand(())))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * self.scale


class TakesIterator(Net):
    """Fetches batches itself, two at a time."""

    def training_step(self, dataloader_iter: Iterator[Any]) -> Tensor:  # type: ignore[override]
        first, *_ = next(dataloader_iter)
        second, *_ = next(dataloader_iter)
        batch = [torch.cat(parts) for parts in zip(first, second, strict=True)]
        x, y = batch
        loss: Tensor = (self.net(x)[:, 0] - y).square().mean()
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(x))
        return loss


class KeepsThings(Net):
    """A counter and lists of outputs as attributes, one made as an epoch starts."""

    def __init__(self) -> None:
        super().__init__()
        self.num_seen = 0
        self.outputs: list[Tensor] = []
        self.missed = MulticlassAccuracy(2)

    def on_train_epoch_start(self) -> None:
        self.pairs: list[dict[str, Tensor]] = []
        self.factor = float(torch.rand(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx) * self.factor
        self.num_seen += 1
        self.outputs.append(loss.detach())
        self.pairs.append({"loss": loss.detach()})
        return loss / (1 + self.num_seen)

    def on_train_epoch_end(self) -> None:
        self.log("own/mean", torch.stack(self.outputs).mean())
        self.log("own/pairs", torch.stack([pair["loss"] for pair in self.pairs]).mean())
        self.outputs.clear()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        x, y = batch
        self.missed.update((self.net(x)[:, 0] > 0.1).long(), (y > 0).long())
        self.log("val/acc", self.missed)


class EpochSampler(Sampler[int]):
    """Shuffles by the epoch that it is told, as ``DistributedSampler`` does."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(self.epoch))
        return iter(order.tolist())


class Loaders(LightningDataModule):
    """Whatever loaders a function makes for training; plain ones for validation."""

    def __init__(self, train: Callable[[], Any]) -> None:
        super().__init__()
        self.make = train

    def train_dataloader(self) -> Any:
        return self.make()

    def val_dataloader(self) -> Any:
        return DataLoader(Shaken(), batch_size=BATCH_SIZE, shuffle=True)


class Shaken(Dataset[Any]):
    """Draws from all three in ``__getitem__``."""

    def __init__(self) -> None:
        self.samples = points()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        x, y = self.samples[index]
        return x + 0.1 * torch.rand(()) + 0.1 * float(np.random.rand()) + random.gauss(0, 0.1), y


class Buffered(IterableDataset[Any]):
    """A stream, shuffled in a buffer: what comes depends on all draws before."""

    def __iter__(self) -> Iterator[Any]:
        buffer: list[Any] = []
        samples = points()
        for number in range(len(samples)):
            buffer.append(samples[number])
            if len(buffer) > 5:
                yield buffer.pop(int(torch.randint(len(buffer), ())))
        yield from buffer


class Stateful:
    """A loader that resumes by itself, as those of torchdata and litdata do."""

    def __init__(self) -> None:
        self.batch = 0

    def __len__(self) -> int:
        return NUM_SAMPLES // BATCH_SIZE

    def __iter__(self) -> Iterator[Any]:
        x, y = points().tensors
        first, self.batch = self.batch, 0
        for number in range(first, len(self)):
            self.batch = (number + 1) % len(self)
            rows = slice(number * BATCH_SIZE, (number + 1) * BATCH_SIZE)
            yield x[rows], y[rows]

    def state_dict(self) -> dict[str, Any]:
        return {"batch": self.batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batch = state["batch"]


class DrawsAtEpochStart(Callback):
    """A person's callback that draws, and counts in a state of its own."""

    def __init__(self) -> None:
        self.draws: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.draws.append(float(torch.rand(())))

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = state["draws"]


def shuffled(**options: Any) -> Any:
    return DataLoader(Shaken(), batch_size=BATCH_SIZE, shuffle=True, **options)


def with_generator() -> Any:
    return shuffled(generator=torch.Generator().manual_seed(7))


def in_workers() -> Any:
    return shuffled(num_workers=2)


def stream() -> Any:
    return DataLoader(Buffered(), batch_size=BATCH_SIZE)


def cycled() -> Any:
    return CombinedLoader([shuffled(), DataLoader(points(8), shuffle=True)], "max_size_cycle")


def told_the_epoch() -> Any:
    return DataLoader(points(), BATCH_SIZE, sampler=EpochSampler(), num_workers=2)


def drawn() -> Any:
    """Of other samples in each epoch, drawn from the global random numbers."""
    rows = np.random.permutation(NUM_SAMPLES)[:16].tolist()
    return DataLoader(Subset(points(), rows), BATCH_SIZE)


class First(Net):
    """Trains on the first of several loaders, and a little on the others."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        other: Tensor = self.net(batch[1][0]).square().mean()
        return super().training_step(batch[0], batch_idx) + other


CASES: dict[str, tuple[type[Net], Callable[[], Any], dict[str, Any]]] = {
    "hooks": (DrawsInHooks, shuffled, {}),
    "hooks, stream": (DrawsInHooks, stream, {}),
    "hooks, accumulation": (DrawsInHooks, shuffled, {"accumulate_grad_batches": 4}),
    "validation within": (DrawsInHooks, shuffled, {"val_check_interval": 2}),
    "validation every 2": (DrawsInHooks, shuffled, {"check_val_every_n_epoch": 2}),
    "set at epoch start": (ScaledFromEpochStart, shuffled, {}),
    "generator": (Net, with_generator, {}),
    "workers": (DrawsInHooks, in_workers, {}),
    "buffered stream": (Net, stream, {}),
    "cycled": (First, cycled, {}),
    "stateful": (Net, Stateful, {}),
    "iterator": (TakesIterator, shuffled, {"log_every_n_steps": 1}),
    "attributes": (KeepsThings, shuffled, {"val_check_interval": 2}),
    "told the epoch": (Net, told_the_epoch, {}),
    "loaders drawn": (Net, drawn, {"reload_dataloaders_every_n_epochs": 1}),
    "reloaded": (Net, shuffled, {"reload_dataloaders_every_n_epochs": 1}),
    "max_steps": (DrawsInHooks, shuffled, {"max_steps": 10, "max_epochs": -1}),
    "max_steps, stream": (Net, stream, {"max_steps": 10, "max_epochs": -1}),
}


def train(
    folder: Path,
    model: type[Net],
    loader: Callable[[], Any],
    *callbacks: Callback,
    ckpt_path: Path | None = None,
    checkpoint: Callback | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train, and return all that must be the same in a resumed run."""
    seed_everything(0)
    folder.mkdir(parents=True, exist_ok=True)
    logger, own = MetricsCSV(folder), DrawsAtEpochStart()
    module = model()
    made = fit(
        folder,
        module,
        Loaders(loader),
        *(RunFiles(folder, ""), ExactResume(), *callbacks, own),
        checkpoint or Checkpoint(every_n_steps=2),
        logger=logger,
        ckpt_path=ckpt_path,
        **{"max_epochs": 2, "limit_val_batches": 3, "log_every_n_steps": 2, **options},
    )
    return {
        **{name: value.clone() for name, value in module.state_dict().items()},
        "moments": [state["exp_avg"] for state in made.optimizers[0].state.values()],
        "draws": own.draws,
        "rows": logger.path.read_text(),
        "random": (torch.rand(4), np.random.rand(4).tolist(), random.random()),
        "step": made.global_step,
        "epoch": made.current_epoch,
    }


def assert_same(one: dict[str, Any], other: dict[str, Any], where: str = "") -> None:
    assert other["rows"].splitlines() == one["rows"].splitlines(), where
    assert differences(dict(flat(one)), dict(flat(other))) == [], where


# What another case is a variation of.
LIKE_OTHERS = (
    *("hooks, stream", "validation every 2", "generator", "told the epoch", "reloaded"),
    "max_steps, stream",
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_resumed_from_each_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_resumed(name, tmp_path, monkeypatch, slice(None))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in CASES if name not in LIKE_OTHERS])
def test_resumed_from_every_third_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_resumed(name, tmp_path, monkeypatch, slice(1, None, 3))


def check_resumed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: slice) -> None:
    """Train a case, and from some of the checkpoints that were written once more to the end."""
    model, loader, options = CASES[name]
    copies: list[Path] = []
    write = Trainer.save_checkpoint

    def write_and_copy(self: Trainer, path: Any, *args: Any, **kwargs: Any) -> None:
        write(self, path, *args, **kwargs)
        copies.append(tmp_path / f"copy {len(copies)}, step {self.global_step}")
        shutil.copytree(tmp_path / "run", copies[-1])
        (copies[-1] / "which").write_text(Path(path).name)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", write_and_copy)
        expected = train(run, model, loader, **options)
    assert len(copies) > 3
    if "max_steps" in options:  # of the last, all is trained, and the rows of its epoch came after
        del copies[-1]
    for copy in copies[which]:
        shutil.rmtree(run)
        shutil.copytree(copy, run)
        last = run / "checkpoints" / (copy / "which").read_text()
        found = train(run, model, loader, ckpt_path=last, **options)
        assert_same(expected, found, f"{copy.name}, {last.name}")


class SavesAsAsked(Callback):
    """A person's own, who asks between two batches and when an epoch has ended."""

    def on_between_batches(self, trainer: Trainer) -> None:
        self.save(trainer)

    def write_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        if trainer.global_step % 4 == 2:
            folder = Path(trainer.default_root_dir) / "checkpoints"
            trainer.save_checkpoint(folder / f"{trainer.global_step}.ckpt", weights_only=False)


@pytest.mark.filterwarnings("ignore")
def test_resumed_from_a_checkpoint_of_any_callback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, copies = tmp_path / "run", dict[int, Path]()
    write = Trainer.save_checkpoint

    def write_and_copy(self: Trainer, path: Any, *args: Any, **kwargs: Any) -> None:
        write(self, path, *args, **kwargs)
        copies[self.global_step] = tmp_path / f"copy {self.global_step}"
        shutil.copytree(run, copies[self.global_step], dirs_exist_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", write_and_copy)
        expected = train(run, DrawsInHooks, shuffled, checkpoint=SavesAsAsked())
    assert [*copies] == [2, 6, 10]
    for step, copy in copies.items():
        shutil.rmtree(run)
        shutil.copytree(copy, run)
        last = run / "checkpoints" / f"{step}.ckpt"
        found = train(run, DrawsInHooks, shuffled, ckpt_path=last, checkpoint=SavesAsAsked())
        assert_same(expected, found, str(step))


class DrawsInValidation(DrawsInHooks, KeepsThings):
    """Has metrics too, that validation has updated when it is stopped."""

    def on_train_epoch_start(self) -> None:
        DrawsInHooks.on_train_epoch_start(self)
        KeepsThings.on_train_epoch_start(self)


class StopInValidation(Callback):
    """Sends SIGTERM within a validation."""

    def __init__(self, at_step: int) -> None:
        self.at_step = at_step

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.global_step == self.at_step and batch_idx == 1 and not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGTERM)


class Nothing(Callback):
    """Does nothing."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("average", [Nothing, EMAWeightAveraging])
@pytest.mark.parametrize(
    ("step", "options"),
    [pytest.param(6, {}, marks=pytest.mark.slow), (10, {"val_check_interval": 2})],
)
def test_stopped_in_validation(
    tmp_path: Path, average: type[Callback], step: int, options: dict[str, Any]
) -> None:
    """What validation has drawn so far is drawn again; averages are not taken for weights."""

    def go(run: Path, *callbacks: Callback, ckpt_path: Path | None = None) -> dict[str, Any]:
        chosen = (GracefulStop(), average(), *callbacks)
        return train(run, DrawsInValidation, shuffled, *chosen, ckpt_path=ckpt_path, **options)

    expected = go(tmp_path / "whole")
    run = tmp_path / "parts"
    with pytest.raises(SystemExit):
        go(run, StopInValidation(step))
    last = run / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == step
    assert_same(expected, go(run, ckpt_path=last))


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_max_steps_broke_off_trains_the_rest_of_its_epoch(tmp_path: Path) -> None:
    longer: dict[str, Any] = {"max_epochs": -1, "max_steps": 11}
    expected = train(tmp_path / "whole", DrawsInHooks, shuffled, **longer)
    run = tmp_path / "parts"
    train(run, DrawsInHooks, shuffled, **{**longer, "max_steps": 9})
    last = run / "checkpoints" / "last.ckpt"
    found = train(run, DrawsInHooks, shuffled, ckpt_path=last, **longer)
    expected["rows"] = found["rows"] = ""  # the first ended with rows of an epoch, that was none
    assert_same(expected, found)


class OwnNumbers(Shaken):
    """Keeps random numbers of its own, which no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("loader", "text"),
    [
        (lambda: DataLoader(OwnNumbers(), BATCH_SIZE), "OwnNumbers.rng (Generator) begins anew"),
        (
            lambda: DataLoader(Subset(OwnNumbers(), range(NUM_SAMPLES)), BATCH_SIZE),
            "OwnNumbers.rng (Generator) begins anew",
        ),
        (lambda: shuffled(num_workers=1, persistent_workers=True), "of persistent workers"),
        (shuffled, ""),
        (in_workers, ""),
    ],
)
def test_what_cannot_be_exact_is_said_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loader: Callable[[], Any], text: str
) -> None:
    train(tmp_path, Net, loader, max_epochs=1)
    assert "not bit for bit" not in capsys.readouterr().err
    last = tmp_path / "checkpoints" / "last.ckpt"
    train(tmp_path, Net, loader, ckpt_path=last, max_epochs=2)
    said = [line for line in capsys.readouterr().err.splitlines() if "not bit for bit" in line]
    assert len(said) == bool(text)
    assert text in "".join(said)


@pytest.mark.filterwarnings("ignore")
def test_data_that_has_shrunk_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": -1, "max_steps": 5}
    train(tmp_path, Net, shuffled, **options)
    last = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=r"data: has 2 batches, but .* stopped after 5\."):
        train(
            tmp_path,
            Net,
            lambda: DataLoader(points(8), BATCH_SIZE),
            ckpt_path=last,
            **{**options, "max_steps": 8},
        )


def test_what_a_loader_draws_is_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    """And not of what the model draws, nor does it move the model's own numbers."""
    seen: list[list[float]] = []

    class Records(Net):
        draws = 0

        def on_train_epoch_start(self) -> None:
            seen.append([])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            torch.rand(self.draws)
            seen[-1] += batch[0].flatten().tolist()
            return super().training_step(batch, batch_idx)

    class DrawsMore(Records):
        draws = 3

    train(tmp_path / "one", Records, shuffled)
    one = list(seen)
    seen.clear()
    train(tmp_path / "two", DrawsMore, shuffled)
    assert seen == one
    assert one[0] != one[1]


@pytest.mark.filterwarnings("ignore")
def test_gradients_of_an_unfinished_step_are_missed_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a best checkpoint that validation left within accumulation."""
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "val_check_interval": 3}
    train(tmp_path, Net, shuffled, max_steps=2, max_epochs=-1, **options)
    best = tmp_path / "checkpoints" / "best.ckpt"
    assert torch.load(best, weights_only=True)["resume"]["num_batches"] == 3
    capsys.readouterr()
    train(tmp_path, Net, shuffled, ckpt_path=best, max_epochs=1, **options)
    assert "not bit for bit, gradients that were accumulated" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_best_is_remembered_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    train(tmp_path / "here", Net, shuffled)
    (tmp_path / "here").rename(tmp_path / "there")
    last = tmp_path / "there" / "checkpoints" / "last.ckpt"
    before = torch.load(last, weights_only=True)["callbacks"]["Checkpoint"]
    train(tmp_path / "there", Net, shuffled, ckpt_path=last, max_epochs=3)
    after = torch.load(last, weights_only=True)["callbacks"]["Checkpoint"]
    assert float(after["best_model_score"]) <= float(before["best_model_score"])
    assert after["best_model_path"] == str(tmp_path / "there" / "checkpoints" / "best.ckpt")


class Exchanges(Callback):
    """Has other weights validated than are trained, a person's own average."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = [p.detach().clone() for p in pl_module.parameters()]
        for p in pl_module.parameters():
            p.data.neg_()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for p, value in zip(pl_module.parameters(), self.before, strict=True):
            p.data.copy_(value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("callbacks", "count"), [((), 0), ((Exchanges(),), 1)])
def test_best_that_is_not_what_was_validated_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], callbacks: Any, count: int
) -> None:
    train(tmp_path, Net, shuffled, *callbacks)
    assert capsys.readouterr().err.count("other weights than were validated") == count
