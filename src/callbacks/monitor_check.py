"""Find out at once that a monitored metric will never be logged."""

from difflib import get_close_matches

from lightning.pytorch import Callback, LightningModule, Trainer


class MonitorCheck(Callback):
    """Check what checkpointing and early stopping monitor against what the model logs.

    A model that tells (``monitorable``) is checked before any data is read; for others, what starts
    with ``val`` is checked after Lightning's validation at the start of the run.

    Raises:
        ValueError: A monitored name is not among those logged.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        names = getattr(pl_module, "monitorable", None)
        if stage == "fit" and names is not None:
            if not trainer.limit_val_batches:
                names = {name for name in names if not name.startswith("val/")}
            self._check(trainer, names, everything=True)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not hasattr(pl_module, "monitorable"):
            self._check(trainer, set(trainer.callback_metrics), everything=False)

    def _check(self, trainer: Trainer, names: set[str], everything: bool) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor = getattr(callback, "monitor", None)
            if monitor is None or monitor in names or monitor.startswith(("samples_", "memory_")):
                continue
            if everything or monitor.startswith("val"):
                raise ValueError(describe(type(callback).__name__, monitor, names))


def describe(owner: str, monitor: str, names: set[str]) -> str:
    """Say that ``monitor`` is never logged, and what is."""
    near = get_close_matches(monitor, names, 1, 0.5)
    hint = f"Did you mean `{near[0]}`?" if near else "Set it to one of these, or switch it off."
    return (
        f"{owner}.monitor: `{monitor}` is never logged. {hint}\n"
        f"Logged: {', '.join(sorted(names)) or 'nothing'}."
    )
