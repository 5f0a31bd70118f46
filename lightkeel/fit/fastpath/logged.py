"""How values are logged: checked and registered once, and read when somebody looks at them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _get_default_dtype,
    _ResultMetric,
)
from torch import Tensor
from torchmetrics import Metric

LOG, TEARDOWN = LightningModule.log, _LoggerConnector.teardown
ARGUMENTS = (
    *("prog_bar", "logger", "on_step", "on_epoch", "reduce_fx", "enable_graph", "sync_dist"),
    *("sync_dist_group", "add_dataloader_idx", "metric_attribute", "rank_zero_only"),
)


class Logged(NamedTuple):
    """A call of ``self.log`` that Lightning has checked and registered."""

    arguments: tuple[Any, ...]
    key: str  # in the results
    result: _ResultMetric
    metric: Metric | None  # what was logged; None: a number


def log(
    self: LightningModule,
    name: str,
    value: Any,
    prog_bar: bool = False,
    logger: bool | None = None,
    on_step: bool | None = None,
    on_epoch: bool | None = None,
    reduce_fx: str | Callable[[Any], Any] = "mean",
    enable_graph: bool = False,
    sync_dist: bool = False,
    sync_dist_group: Any = None,
    add_dataloader_idx: bool = True,
    batch_size: int | None = None,
    metric_attribute: str | None = None,
    rank_zero_only: bool = False,
) -> None:
    """``LightningModule.log`` that checks arguments once.

    The first call in a hook goes to Lightning's, which registers a result. From then on the same
    arguments find that result, and a value goes straight to its ``forward``.
    """
    arguments = (
        *(prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist),
        *(sync_dist_group, add_dataloader_idx, metric_attribute, rank_zero_only),
    )
    trainer: Any = self._trainer
    fx = self._current_fx_name
    # Lightning's is known to torch.compile, which is not to trace what follows.
    results = None if trainer is None or torch.compiler.is_compiling() else trainer._results
    if results is not None:
        place = fx, name, results.dataloader_idx, batch_size is None
        known: Logged | None = results.__dict__.get("logged", {}).get(place)
        if known is not None and known.arguments == arguments:
            connector = trainer._logger_connector
            # Otherwise Lightning may have to reset what the hook has logged in the last epoch.
            goes_on = connector._first_loop_iter is False or connector._current_fx == fx
            number = taken(self, value, known) if goes_on else None
            if number is not None and results.get(known.key) is known.result:
                size = results._extract_batch_size(known.result, batch_size, known.result.meta)
                known.result.forward(number, size)
                known.result.has_reset = False
                connector._current_fx = fx
                return
    given = dict(zip(ARGUMENTS, arguments, strict=True))
    LOG(self, name, value, batch_size=batch_size, **given)
    if results is not None:
        index = results.dataloader_idx if add_dataloader_idx else None
        key = f"{fx}.{name}" if index is None else f"{fx}.{name}.{index}"
        if key in results:
            metric = value if isinstance(value, Metric) else None
            logged = Logged(arguments, key, results[key], metric)
            results.__dict__.setdefault("logged", {})[place] = logged


def taken(self: LightningModule, value: Any, known: Logged) -> Any:
    """Return what a result is updated with; None: Lightning has to look at the value."""
    if known.metric is not None:
        # Lightning moves a metric each time, which gives it the default dtype at hand.
        same = value is known.metric and value.dtype == torch.get_default_dtype()
        return value if same else None
    device, kind = known.result.value.device, type(value)
    if kind is Tensor and value.device == device and value.numel() == 1:
        return value.squeeze() if value.ndim else value
    if kind in (float, int, bool) and self.device == device:
        # Not `torch.tensor`, which copies from the host and waits for the device.
        return torch.full((), value, dtype=_get_default_dtype(), device=device)
    return None


def unread(value: Tensor) -> Tensor:
    """Leave a value of the progress bar on the device until the bar is drawn."""
    return value


def progress_bar_metrics(self: _LoggerConnector) -> dict[str, float]:
    """``_LoggerConnector.progress_bar_metrics``, which reads what ``unread`` has left."""
    if self.trainer._results:
        self._progress_bar_metrics.update(self.metrics["pbar"])
    self._progress_bar_metrics.update(numbers(self._progress_bar_metrics))
    return self._progress_bar_metrics


def teardown(self: _LoggerConnector) -> None:
    """``_LoggerConnector.teardown``, with nothing left to read."""
    self._progress_bar_metrics.update(numbers(self._progress_bar_metrics))
    TEARDOWN(self)


def numbers(values: Any) -> Any:
    """``convert_tensors_to_scalars`` with one transfer from the device for all of a row."""
    kinds: dict[Any, list[str]] = {}
    for name, value in values.items() if type(values) is dict else ():
        if type(value) is Tensor and value.ndim == 0:
            kinds.setdefault((value.device, value.dtype), []).append(name)
    read: dict[str, Any] = {}
    for names in kinds.values():
        together = torch.stack([values[name] for name in names]).tolist()
        read.update(zip(names, together, strict=True))
    return convert_tensors_to_scalars(values | read if read else values)  # what is left
