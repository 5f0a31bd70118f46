"""What exact resuming needs of Lightning and torchmetrics that their documentation does not name.

Each is in ``SEAMS`` and in docs/lightning.md. All else of the library, but for ``fastpath``, uses
public names only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from operator import attrgetter
from signal import SIGKILL
from typing import Any
from unittest.mock import patch

import lightning
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultMetric,
    _Sync,
)
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torchmetrics import Metric

from .module_state import copied, is_plain

# Attributes of a trainer, and of what `self.log` makes for a value.
SEAMS = {
    "fit_loop._data_source.dataloader": "wrap the loaders of training",
    "fit_loop.epoch_loop.val_loop._data_source.dataloader": "wrap the loaders of validation",
    "fit_loop._data_fetcher": "fetch anew what was fetched before the state was restored",
    "fit_loop.epoch_progress.current.started": "tell whether an epoch is under way",
    "fit_loop.epoch_progress.current.processed": "number the epoch",
    "fit_loop.epoch_progress.current.completed": "tell whether an epoch is under way",
    "fit_loop.epoch_loop.batch_progress.current.ready": "count the batches of an epoch",
    "fit_loop.epoch_loop.on_run_start": "continue an epoch after the batch it was stopped at",
    "fit_loop.epoch_loop.restarting": "take no step twice",
    "fit_loop._restarting": "step ReduceLROnPlateau at the end of an epoch that was resumed",
    "fit_loop._should_accumulate": "tell whether gradients are being accumulated",
    "fit_loop.epoch_loop._batches_that_stepped": "number a row as Lightning's loggers do",
    "fit_loop.epoch_loop._results": "keep what self.log has accumulated over an epoch",
    "fit_loop.epoch_loop.val_loop._results": "leave out metrics that validation resets",
    "fit_loop.epoch_loop.val_loop._module_mode.mode": "see modes through validation",
    "_logger_connector._first_loop_iter": "not reset what self.log has accumulated",
    "strategy.launcher": "end the processes of the other devices",
}
LOGGED = ("meta", "value", "cumulated_batch_size", "has_reset", "_update_count", "_forward_cache")


def check_seams(trainer: Trainer) -> None:
    """Assert that Lightning has all that is needed here, and name what has moved."""
    made = _ResultMetric(_Metadata("training_step", "loss"), is_tensor=True)
    needed: list[tuple[str, Any, Iterable[str]]] = [
        ("trainer", trainer, SEAMS),
        ("_ResultMetric", made, LOGGED),
        ("CombinedLoader", CombinedLoader([]), ["_mode"]),
    ]
    for kind, owner, path in [(k, o, path) for k, o, paths in needed for path in paths]:
        try:
            attrgetter(path)(owner)
        except AttributeError:
            raise AssertionError(
                f"Lightning {lightning.__version__} has no `{kind}.{path}` (see "
                "docs/lightning.md). Use a version that pyproject.toml allows."
            ) from None


# Loaders.


def wrap_loaders(trainer: Trainer, training: bool, wrap: Callable[[Any], Any]) -> None:
    """Have ``wrap`` answer where the loaders are asked for; it is given what would answer."""
    loop = trainer.fit_loop if training else trainer.fit_loop.epoch_loop.val_loop
    source: Any = loop._data_source
    source.dataloader = partial(wrap, partial(type(source).dataloader, source))


def combination(loader: CombinedLoader) -> Any:
    """Tell how a loader combines others."""
    return loader._mode


# Where the loops are.


def num_epochs(trainer: Trainer) -> int:
    """Count the epochs that have ended, that at whose end hooks are called included."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    return int(epochs.processed)


def num_batches(trainer: Trainer) -> int:
    """Count the batches of the epoch that were trained on."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def row_step(trainer: Trainer) -> int:
    """Number of the step at hand, from 0, as Lightning's loggers count them."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def is_under_way(trainer: Trainer) -> bool:
    """Tell whether batches of the epoch are still to be trained on, or to be validated after."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    is_begun = epochs.started > epochs.completed
    return is_begun and (epochs.processed < epochs.started or not trainer.is_last_batch)


def is_accumulating(trainer: Trainer) -> bool:
    """Tell whether gradients of the last batch wait for those of the next."""
    return trainer.fit_loop._should_accumulate()


def repair_counters(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Have a checkpoint resumed at the place where it is written, which its counters miss."""
    loop = checkpoint["loops"]["fit_loop"]
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    validated = loop["epoch_loop.val_loop.batch_progress"]
    counted = [
        (epochs, "ready", "started"),  # between two epochs
        (batches, "ready", "started"),  # between two batches that `training_step` fetches itself
    ]
    if not trainer.is_last_batch:  # broken off: the rest of the epoch is not to be left out
        counted.append((epochs, "processed", "completed"))
    for progress, name, next_name in counted:
        if progress["current"][name] > progress["current"][next_name]:
            progress["total"][name] -= 1
            progress["current"][name] -= 1
    if validated["current"]["ready"] > validated["current"]["completed"]:
        # Within validation: as if it began, since its metrics are in no checkpoint.
        for part in (validated["total"], validated["current"]):
            part |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}


def continue_loops(trainer: Trainer, num_fetched: int, is_between: bool) -> None:
    """Have Lightning continue where a run was stopped, once all else is restored.

    ``num_fetched`` batches were fetched; Lightning counts the steps that took them. Where all is
    done that belongs to the last (``is_between``), it would take another step, without a batch.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    begin, fetcher = loop.on_run_start, trainer.fit_loop._data_fetcher

    def begin_between(fetcher: Any) -> None:
        del loop.on_run_start
        begin(fetcher)
        fetcher.fetched = num_fetched
        loop.restarting = loop.restarting and not is_between

    if is_under_way(trainer):
        loop.on_run_start = begin_between
    else:
        loop.restarting = False  # else it begins with an empty epoch where `max_steps` is set
    if fetcher is not None and fetcher.length is None:
        iter(fetcher)  # it has fetched a batch before the state of the run was restored


def end_epoch_as_any(trainer: Trainer) -> None:
    """Have Lightning step ReduceLROnPlateau at the end of an epoch that was resumed."""
    trainer.fit_loop._restarting = False


# Modes, metrics and what was logged.


def modes_before_validation(trainer: Trainer) -> dict[str, bool]:
    """Tell which layers were training when the validation at hand put all into evaluation mode."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    return dict(loop._module_mode.mode) if trainer.validating else {}


def reset_after(trainer: Trainer) -> set[int]:
    """Name, by identity, the metrics that Lightning resets once validation has ended."""
    results = trainer.fit_loop.epoch_loop.val_loop._results.values() if trainer.validating else ()
    return {id(result.value) for result in results if not result.is_tensor}


def restore_metric(metric: Metric, num_updates: int, state: Mapping[str, Any]) -> None:
    """Put a metric into a state, after a number of updates."""
    metric._update_count = num_updates
    for name, value in move_data_to_device(state, metric.device).items():
        setattr(metric, name, value)


def logged_states(trainer: Trainer) -> list[dict[str, Any]]:
    """Copy what ``self.log`` has accumulated in this epoch of training."""
    states = []
    for key, result in trainer.fit_loop.epoch_loop._results.items():
        if result.has_reset:
            continue
        meta, sync, last = result.meta, result.meta.sync, result._forward_cache
        values = ("value", "cumulated_batch_size") if result.is_tensor else ()
        state = {
            "key": key,
            "meta": {n: v for n, v in vars(meta).items() if n not in ("reduce_fx", "_sync")},
            "reduce_fx": meta.reduce_fx.__name__,
            "sync_dist": sync.should,
            "rank_zero_only": sync.rank_zero_only,
            "updates": result.update_count,
            "last": copied(last) if is_plain(last) else None,
            "values": {n: copied(getattr(result, n)) for n in values if hasattr(result, n)},
        }
        states.append(state)
    return states


def restore_logged(trainer: Trainer, states: Sequence[Mapping[str, Any]]) -> None:
    """Have ``self.log`` accumulate from where it was when ``logged_states`` copied it."""
    for state in states:
        meta = _Metadata(**state["meta"], reduce_fx=state["reduce_fx"])
        should, first_only = state["sync_dist"], state["rank_zero_only"]
        meta.sync = _Sync(trainer.strategy.reduce, should, rank_zero_only=first_only)
        result = _ResultMetric(meta, is_tensor=bool(state["values"]))
        if not state["values"]:
            result.value = trainer.lightning_module.get_submodule(state["meta"]["metric_attribute"])
        moved = move_data_to_device(dict(state), trainer.strategy.root_device)
        for name, value in moved["values"].items():
            setattr(result, name, value)
        result._update_count, result._forward_cache = state["updates"], moved["last"]
        trainer.fit_loop.epoch_loop._results[state["key"]] = result
    if states:  # else the first batch would count as the first of an epoch, which resets them
        trainer._logger_connector._first_loop_iter = False


def end_others(trainer: Trainer) -> None:
    """End the processes that this one started, which may be waiting for it in vain."""
    launcher: Any = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(SIGKILL)  # while they wait, Python answers no other


# Means.

COMPUTE: Any = _ResultMetric.compute


def exact_means() -> AbstractContextManager[Any]:
    """Have ``self.log(..., sync_dist=True)`` average over samples where ranks have unlike numbers.

    Lightning rounds the mean number of samples of the ranks down: of 3 and 2, to 2.
    """
    return patch.object(_ResultMetric, "compute", mean_over_samples)


def mean_over_samples(result: _ResultMetric) -> Tensor:
    """``_ResultMetric.compute`` that keeps the fraction of the number of samples."""
    if not (result.is_tensor and result.meta.is_mean_reduction):
        return COMPUTE(result)  # type: ignore[no-any-return]
    value: Tensor = result.meta.sync(result.value.clone())
    num_samples: Tensor = result.meta.sync(result.cumulated_batch_size.to(value.dtype))
    return value / num_samples
