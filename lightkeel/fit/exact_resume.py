"""Resume a run so that it ends bit for bit as it would have without being stopped."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities import CombinedLoader

from ..data.random_streams import RandomStreams
from ..errors.checks import warn
from . import lightning_state as lightning, module_state
from .fastpath.hooks import overriding
from .replay import (
    Pass,
    ReplayLoader,
    not_resumable,
    random_states,
    restore_random,
)

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

    Callbacks that write checkpoints may have these methods, which Lightning does not know:

    - ``on_between_batches(trainer)``: after a batch, when all is done that belongs to it, its rows
      of metrics and validation too: the moment for a checkpoint within an epoch.
    - ``write_epoch(trainer, pl_module)``: when all of an epoch is done, schedules too.
    - ``write_last(trainer)``: when training ends within an epoch, by ``max_steps`` for example.
    - ``remember_weights(pl_module)``: when validation or training has ended, and no other callback
      has exchanged the weights.

    On another number of devices, random numbers and metrics begin anew.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._resumed: dict[str, Any] | None = None  # of the checkpoint
        self._resumed_epoch, self._num_done = -1, 0  # batches trained on in that epoch
        self._random: dict[str, Any] | None = None  # to be set where training is resumed
        self._before_validation: dict[str, Any] | None = None
        self._is_between = False
        self._attributes: dict[str, Any] = {}  # of the module, before training
        self._loader: ReplayLoader | None = None  # of training
        self._takes_iterator = False  # whether `training_step` fetches its batches itself

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        lightning.check_seams(trainer)
        step = inspect.signature(pl_module.training_step)
        self._takes_iterator = "dataloader_iter" in step.parameters
        lightning.wrap_loaders(trainer, True, partial(self._wrap, trainer, TRAINING))
        lightning.wrap_loaders(trainer, False, partial(self._wrap, trainer, VALIDATION))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._attributes = module_state.attributes(pl_module)
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            return
        problems = [] if self._loader is None else not_resumable(self._loader.flattened)
        mine = None
        if len(resumed["ranks"]) == trainer.world_size:
            mine = resumed["ranks"][trainer.global_rank]
            for name, metric in module_state.metrics_in(pl_module).items():
                if found := mine["metrics"].get(name):
                    lightning.restore_metric(metric, found["updates"], found["state"])
            lightning.restore_logged(trainer, mine["logged"])
            module_state.restore_attributes(pl_module, mine["attributes"])
            if resumed["modes"] is not None:
                module_state.restore_modes(pl_module, resumed["modes"])
        else:
            number = len(resumed["ranks"])
            problems.append(f"random numbers begin anew: it had {number} devices")
        if lightning.is_under_way(trainer):
            continue_swa(trainer, pl_module)
        if resumed["is_partial"]:
            problems.append("gradients that were accumulated for a step are in no checkpoint")
        device = trainer.strategy.root_device
        watched = {name: value.to(device) for name, value in resumed["watched"].items()}
        trainer.callback_metrics.update(watched)
        for problem in problems if trainer.is_global_zero else []:
            warn(f"--resume: not bit for bit, {problem}.")
        lightning.continue_loops(trainer, resumed["num_batches"], resumed["between"])
        if mine is not None:
            restore_random(mine["random"], device)
            self._random = mine["random"]  # once more, when hooks of others have drawn

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumed is not None:  # nothing was left to train
            self.on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_random(trainer)
        # The first callback: what others do now is of the next epoch, and done again if resumed.
        call_each(trainer, "write_epoch", trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        call_each(trainer, "write_epoch", trainer, pl_module)
        call_each(trainer, "remember_weights", pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._takes_iterator:
            self._restore_random(trainer)
            if self._num_batches(trainer):
                self._between(trainer, "on_between_batches")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._restore_random(trainer)
            self._before_validation = {
                "random": random_states(trainer.strategy.root_device),
                "metrics": module_state.metric_states(pl_module),
            }

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before_validation = None
        call_each(trainer, "remember_weights", pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lightning.end_epoch_as_any(trainer)
        self._restore_random(trainer)
        if lightning.is_under_way(trainer):  # broken off, by `max_steps` for example
            self._between(trainer, "write_last")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        now = lightning.is_under_way(trainer)
        # Validation begins anew when a run is resumed within it.
        mine = self._before_validation or {
            "random": random_states(trainer.strategy.root_device),
            "metrics": module_state.metric_states(pl_module, lightning.reset_after(trainer)),
        }
        mine |= {
            "logged": lightning.logged_states(trainer) if now else [],
            "attributes": module_state.changed_attributes(pl_module, self._attributes),
        }
        known = lightning.modes_before_validation(trainer)
        checkpoint["resume"] = {
            "ranks": gather(trainer, mine),
            "epoch": trainer.current_epoch,
            "num_batches": self._num_batches(trainer) if now else 0,
            "between": self._is_between,
            "is_partial": now and lightning.is_accumulating(trainer),
            "modes": module_state.modes(pl_module, known) if now else None,
            "watched": module_state.copied(dict(trainer.callback_metrics)),
        }
        lightning.repair_counters(trainer, checkpoint)

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

    def _wrap(self, trainer: Trainer, purpose: int, ask: Callable[[], Any]) -> ReplayLoader:
        """Ask for loaders, with the random numbers of the epoch that they are made in."""
        every: int = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
        epoch = lightning.num_epochs(trainer)
        made_in = epoch - epoch % every if every else 0
        with RandomStreams((self.seed, purpose, made_in, LOADERS)).active():
            found = ask()
        mode = "sequential" if purpose == VALIDATION else "max_size_cycle"
        if isinstance(found, CombinedLoader):
            found, mode = found.iterables, lightning.combination(found)
        next_pass = partial(self._next_pass, trainer, purpose)
        if purpose == VALIDATION:
            return ReplayLoader(found, mode, next_pass)
        self._loader = ReplayLoader(found, mode, next_pass, partial(self._before_batch, trainer))
        return self._loader

    def _next_pass(self, trainer: Trainer, purpose: int) -> Pass:
        epoch = lightning.num_epochs(trainer)
        if purpose == VALIDATION:
            return Pass((self.seed, purpose, epoch, trainer.global_step), epoch)
        first = self._num_done if epoch == self._resumed_epoch else 0
        return Pass((self.seed, purpose, epoch), epoch, first)

    def _before_batch(self, trainer: Trainer, is_first: bool) -> None:
        self._restore_random(trainer)
        if not (is_first or self._takes_iterator):
            self._between(trainer, "on_between_batches")

    def _between(self, trainer: Trainer, hook: str) -> None:
        self._is_between = True
        call_each(trainer, hook, trainer)
        self._is_between = False

    def _num_batches(self, trainer: Trainer) -> int:
        if self._takes_iterator and self._loader is not None:
            return self._loader.num_given  # a step may have taken several
        return lightning.num_batches(trainer)

    def _restore_random(self, trainer: Trainer) -> None:
        if self._random is not None:
            restore_random(self._random, trainer.strategy.root_device)
            self._random = None


def call_each(trainer: Trainer, name: str, *args: Any) -> None:
    """Call a method of each callback that has it."""
    for callback in overriding(trainer, name):
        getattr(callback, name)(*args)


def gather(trainer: Trainer, value: Any) -> list[Any]:
    """Collect a value of each rank on all of them, in their order."""
    if trainer.world_size == 1:
        return [value]
    values = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def continue_swa(trainer: Trainer, pl_module: LightningModule) -> None:
    """Have Lightning's ``StochasticWeightAveraging`` continue within an epoch.

    It puts its schedule in place as an epoch starts, and this epoch has started before.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    averaging = [part for part in callbacks if isinstance(part, StochasticWeightAveraging)]
    if not averaging:
        return
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    for callback in averaging:
        callback.on_train_epoch_start(trainer, pl_module)
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
