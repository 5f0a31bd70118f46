"""Resume a run so that it ends bit for bit as it would have without being stopped."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher
from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource
from lightning.pytorch.utilities import CombinedLoader

from ..callbacks.checkpoint import Checkpoint
from ..errors.checks import warn
from . import lightning_state as resuming
from .replay import Pass, RandomStreams, ReplayLoader, not_resumable

TRAINING, VALIDATION = 0, 1  # in the key of a pass
LOADERS = 2**20  # in the key of what makes them


class ExactResume(Callback):
    """Keep in checkpoints what a running epoch depends on, for any module and any loader.

    - The random numbers of torch (of each device too), numpy and ``random``, of each rank.
    - How many batches of the epoch were trained on. Loaders are wrapped (``ReplayLoader``), so that
      the rest of the epoch follows when a run is resumed within it.
    - The states of metrics, what ``self.log`` has accumulated, what callbacks watch, which layers
      are in evaluation mode or frozen, and plain attributes of the module that training has
      changed, such as a counter or a list of outputs.

    Callbacks may have a method ``on_between_batches(trainer)``. It is called after a batch when all
    is done that belongs to it, its rows of metrics and validation too: the moment for a checkpoint.

    On another number of devices, random numbers and metrics begin anew.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._resumed: dict[str, Any] | None = None  # of the checkpoint
        self._resumed_epoch, self._num_done = -1, 0  # batches trained on in that epoch
        self._random: dict[str, Any] | None = None  # to be set where training goes on
        self._before_validation: dict[str, Any] | None = None
        self._between: list[Callable[[Trainer], None]] = []
        self._is_between = False
        self._attributes: dict[str, Any] = {}  # of the module, before training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        hooks = (getattr(callback, "on_between_batches", None) for callback in callbacks)
        self._between = [hook for hook in hooks if hook is not None]
        before = partial(self._before_batch, trainer)
        for loop, purpose in (
            (trainer.fit_loop, TRAINING),
            (trainer.fit_loop.epoch_loop.val_loop, VALIDATION),
        ):
            source = loop._data_source
            next_pass = partial(self._next_pass, trainer, purpose)
            loop._data_source = ReplayedSource(
                *(source.instance, source.name, next_pass),
                before if purpose == TRAINING else None,
                partial(self._making, trainer, purpose),
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._attributes = resuming.attributes(pl_module)
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            return
        loader = trainer.fit_loop._combined_loader
        problems = [] if loader is None else not_resumable(loader.flattened)
        if len(resumed["ranks"]) == trainer.world_size:
            mine = resumed["ranks"][trainer.global_rank]
            resuming.restore_metrics(pl_module, mine["metrics"])
            resuming.restore_logged(trainer, mine["logged"])
            resuming.restore_attributes(pl_module, mine["attributes"])
            if resumed["modes"] is not None:
                resuming.restore_modes(trainer, resumed["modes"])
            self._random = mine["random"]
            resuming.restore_random(self._random, trainer.strategy.root_device)
        else:
            number = len(resumed["ranks"])
            problems.append(f"random numbers begin anew: it had {number} devices")
        if is_under_way(trainer):
            continue_swa(trainer, pl_module)
            continue_between(trainer, resumed["num_batches"], resumed["between"])
        else:  # else Lightning begins with an empty epoch where `max_steps` is set
            trainer.fit_loop.epoch_loop.restarting = False
        if resumed["is_partial"]:
            problems.append("gradients that were accumulated for a step are in no checkpoint")
        device = trainer.strategy.root_device
        watched = {name: value.to(device) for name, value in resumed["watched"].items()}
        trainer.callback_metrics.update(watched)
        for problem in problems if trainer.is_global_zero else []:
            warn(f"--resume: not bit for bit, {problem}.")
        fetcher = trainer.fit_loop._data_fetcher
        if fetcher is not None and fetcher.length is None:
            iter(fetcher)  # it has fetched a batch before the state of the run was restored

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumed is not None:  # nothing was left to train
            self.on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_random(trainer, once=True)
        # The first callback: what others do now is of the next epoch, and done again if resumed.
        write_epoch(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        write_epoch(trainer, pl_module)
        for checkpoint in checkpoints_of(trainer):
            checkpoint.remember_weights(pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._random = None
        if not takes_iterator(trainer):
            self.__dict__["on_train_batch_start"] = None  # from now on Lightning leaves it out
        elif num_done(trainer):
            self._call_between(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._restore_random(trainer, once=True)
            self._before_validation = {
                "random": resuming.random_states(trainer.strategy.root_device),
                "metrics": resuming.metric_states(pl_module),
            }

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before_validation = None
        for checkpoint in checkpoints_of(trainer):
            checkpoint.remember_weights(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning leaves ReduceLROnPlateau out at the end of an epoch that was resumed.
        trainer.fit_loop._restarting = False
        self._restore_random(trainer, once=True)
        if is_under_way(trainer):  # broken off, by `max_steps` for example
            self._is_between = True
            for checkpoint in checkpoints_of(trainer):
                checkpoint.write_last(trainer)
            self._is_between = False

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        repair_counters(trainer, checkpoint["loops"]["fit_loop"])
        now = is_under_way(trainer)
        # Validation begins anew when a run is resumed within it.
        mine = self._before_validation or {
            "random": resuming.random_states(trainer.strategy.root_device),
            "metrics": resuming.metric_states(pl_module, resuming.reset_after(trainer)),
        }
        mine |= {
            "logged": resuming.logged_states(trainer) if now else [],
            "attributes": resuming.changed_attributes(pl_module, self._attributes),
        }
        watched = {name: value.cpu() for name, value in trainer.callback_metrics.items()}
        checkpoint["resume"] = {
            "ranks": resuming.gather(trainer, mine),
            "epoch": trainer.fit_loop.epoch_progress.current.completed,
            "num_batches": num_done(trainer) if now else 0,
            "between": self._is_between,
            "is_partial": now and trainer.fit_loop._should_accumulate(),
            "modes": resuming.layer_modes(trainer) if now else None,
            "watched": watched,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != "fit":
            # A test after training is of the averaged weights, which Lightning's `WeightAveraging`
            # would exchange for the others.
            checkpoint.pop("current_model_state", None)
        elif "resume" in checkpoint:
            self._resumed = checkpoint["resume"]
            self._resumed_epoch = checkpoint["resume"]["epoch"]
            self._num_done = checkpoint["resume"]["num_batches"]

    def _next_pass(self, trainer: Trainer, purpose: int) -> Pass:
        epoch = num_epochs(trainer)
        if purpose == VALIDATION:
            return Pass((self.seed, purpose, epoch, trainer.global_step), epoch)
        first = self._num_done if epoch == self._resumed_epoch else 0
        return Pass((self.seed, purpose, epoch), epoch, first)

    def _making(self, trainer: Trainer, purpose: int) -> RandomStreams:
        """Random numbers for whoever makes loaders: those of the epoch that they are made in."""
        every: int = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
        epoch = num_epochs(trainer)
        made_in = epoch - epoch % every if every else 0
        return RandomStreams((self.seed, purpose, made_in, LOADERS))

    def _before_batch(self, trainer: Trainer, is_first: bool) -> None:
        self._restore_random(trainer, once=False)
        if not (is_first or takes_iterator(trainer)):
            self._call_between(trainer)

    def _call_between(self, trainer: Trainer) -> None:
        self._is_between = True
        for hook in self._between:
            hook(trainer)
        self._is_between = False

    def _restore_random(self, trainer: Trainer, once: bool) -> None:
        if self._random is not None:
            resuming.restore_random(self._random, trainer.strategy.root_device)
            self._random = None if once else self._random


class ReplayedSource(_DataLoaderSource):
    """Where Lightning asks for loaders; they are given wrapped."""

    def __init__(
        self,
        instance: Any,
        name: str,
        next_pass: Callable[[], Pass],
        before_batch: Callable[[bool], None] | None,
        making: Callable[[], RandomStreams],
    ) -> None:
        super().__init__(instance, name)
        self.next_pass = next_pass
        self.before_batch = before_batch
        self.making = making

    def dataloader(self) -> ReplayLoader:
        with self.making().active():
            found, mode = super().dataloader(), "max_size_cycle"
        if self.before_batch is None:
            mode = "sequential"
        if isinstance(found, CombinedLoader):
            found, mode = found.iterables, found._mode
        return ReplayLoader(found, mode, self.next_pass, self.before_batch)


def is_under_way(trainer: Trainer) -> bool:
    """Tell whether batches of the epoch are still to be trained on, or to be validated after."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    is_begun = epochs.started > epochs.completed
    return is_begun and (epochs.processed < epochs.started or not trainer.is_last_batch)


def num_done(trainer: Trainer) -> int:
    """Count the batches of the epoch that were trained on."""
    loader = trainer.fit_loop._combined_loader
    if takes_iterator(trainer) and isinstance(loader, ReplayLoader):
        return loader.num_given  # it may have taken several
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)


def num_epochs(trainer: Trainer) -> int:
    """Count the epochs that have ended."""
    return int(trainer.fit_loop.epoch_progress.current.processed)


def repair_counters(trainer: Trainer, loop: dict[str, Any]) -> None:
    """Change the counters of Lightning's loop to be saved so that they say where to begin again."""
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.val_loop.batch_progress"]
    current = epochs["current"]
    parts = (epochs["total"], current)
    if current["ready"] > current["started"]:
        # Between two epochs: as if the next had not been thought of.
        for part in parts:
            part["ready"] -= 1
    if current["processed"] > current["completed"] and not trainer.is_last_batch:
        # Broken off: as if the epoch went on, for the rest of it not to be left out.
        for part in parts:
            part["processed"] -= 1
    taken = loop["epoch_loop.batch_progress"]
    if taken["current"]["ready"] > taken["current"]["started"]:
        # Between two batches that `training_step` fetches itself: likewise.
        for part in (taken["total"], taken["current"]):
            part["ready"] -= 1
    if batches["current"]["ready"] > batches["current"]["completed"]:
        # Within validation: as if it began, since its metrics are in no checkpoint.
        for part in (batches["total"], batches["current"]):
            part |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}


def takes_iterator(trainer: Trainer) -> bool:
    """Tell whether ``training_step`` takes the iterator (``dataloader_iter``), not a batch."""
    return isinstance(trainer.fit_loop._data_fetcher, _DataLoaderIterDataFetcher)


def checkpoints_of(trainer: Trainer) -> list[Checkpoint]:
    """List the callbacks that write the checkpoints of this project."""
    return [part for part in trainer.checkpoint_callbacks if isinstance(part, Checkpoint)]


def write_epoch(trainer: Trainer, pl_module: LightningModule) -> None:
    """Write the checkpoints of an epoch that has ended, if there is one."""
    for checkpoint in checkpoints_of(trainer):
        checkpoint.write_epoch(trainer, pl_module)


def continue_between(trainer: Trainer, num_batches: int, is_between: bool) -> None:
    """Have Lightning continue an epoch after a number of batches.

    Args:
        trainer: The trainer, as training starts.
        num_batches: Fetched before; Lightning counts those steps instead that took them.
        is_between: Whether all is done that belongs to the last of them. Lightning would take
            another step, without a batch, where validation was due.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    begin = loop.on_run_start

    def begin_between(fetcher: Any) -> None:
        del loop.on_run_start
        begin(fetcher)
        fetcher.fetched = num_batches
        if is_between:
            loop.restarting = False

    loop.on_run_start = begin_between


def continue_swa(trainer: Trainer, pl_module: LightningModule) -> None:
    """Have Lightning's ``StochasticWeightAveraging`` continue within an epoch.

    It puts its schedule in place as an epoch starts, and this epoch has started before.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    averaging = [part for part in callbacks if isinstance(part, StochasticWeightAveraging)]
    if not averaging:
        return
    rates = [[group["lr"] for group in o.param_groups] for o in trainer.optimizers]
    for callback in averaging:
        callback.on_train_epoch_start(trainer, pl_module)
    for optimizer, of_groups in zip(trainer.optimizers, rates, strict=True):
        for group, rate in zip(optimizer.param_groups, of_groups, strict=True):
            group["lr"] = rate
