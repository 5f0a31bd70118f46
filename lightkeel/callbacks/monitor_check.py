"""Find out at once that a monitored metric will never be logged."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer

from ..errors.checks import snake_case, suggest
from .checkpoint import Checkpoint
from .early_stopping import EarlyStopping


class MonitorCheck(Callback):
    """Check what checkpointing and early stopping monitor against what the model logs.

    A model that tells (``monitorable``) is checked by ``check_monitors``, which a command can call
    before any data is read; the first hook of a callback comes after that. For others, what starts
    with ``val`` is checked after Lightning's validation at the start of the run.

    Raises:
        ValueError: A monitored name is not among those logged.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            check_monitors(trainer, pl_module)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = set(trainer.callback_metrics)
        _check(trainer, names, lambda monitor: monitor.startswith("val"))


def check_monitors(trainer: Trainer, model: LightningModule) -> None:
    """Raise ``ValueError`` for a monitored name that ``model`` tells it will not log.

    And for one of which nobody says whether less or more is better.
    """
    names = getattr(model, "monitorable", None)
    if names is not None:
        if not trainer.limit_val_batches:
            names = {name for name in names if not name.startswith("val/")}
        throughput = ("samples_per_s", "memory_mib")
        _check(trainer, names, lambda monitor: monitor not in throughput)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, (Checkpoint, EarlyStopping)):
            callback.choose_mode(model)


def _check(trainer: Trainer, names: set[str], applies: Callable[[str], bool]) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in names and applies(monitor):
            raise ValueError(describe(snake_case(type(callback).__name__), monitor, names))


def describe(owner: str, monitor: str, names: set[str]) -> str:
    """Say that ``monitor`` is never logged, and what is."""
    without = monitor.startswith("val/") and not any(n.startswith("val/") for n in names)
    why = " without validation" if without else ""
    hint = suggest(monitor, names, True)
    return f"callbacks.{owner}.monitor: `{monitor}` is never logged{why}. {hint}"
