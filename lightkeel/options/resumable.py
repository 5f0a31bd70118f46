"""Which settings a resumed run may change."""

import os
from collections.abc import Mapping
from typing import Any

from ..errors.checks import warn
from ..models import optimizers as optim
from ..runs.folder import is_rank_zero
from ..runs.safe_yaml import flatten

# Settings that change what a resumed run comes to, but for those that change how fast.
INEXACT = (
    "data",
    "callbacks.gradient",
    "callbacks.nonfinite",
    "trainer.accumulate",
    "trainer.prec",
)
PACE = (
    *("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "timeout", "timeout_s"),
    *("multiprocessing_context", "device_resident", "cache_dir", "val_batch_size"),
)


def _names(key: str) -> list[str]:
    """Name an option, and the mapping it is in, which a config replaces as a whole."""
    option = key.replace(".init_args", "")
    whole = option.rpartition(".")[0]
    return [option, whole] if "." in whole else [option]


def check_resumable(
    before: Mapping[str, Any], now: Mapping[str, Any], beside: Mapping[str, Any]
) -> None:
    """Raise ``ValueError`` for a setting that a resumed run can no longer change.

    Of others that keep it from being exact, say so on standard error; of both, whether one of the
    configs by path that are laid over the run's own is to be left out.
    """
    old, new = (flatten(config) for config in (before, now))
    keys = {path: [*flatten(content)] for path, content in beside.items()}
    setting = {name: path for path in keys for key in keys[path] for name in _names(key)}
    schedule = now["model"].get("init_args", {}).get("lr_scheduler") or {}
    horizon = optim.HORIZON.get(str(schedule.get("name", "")).rpartition(".")[2])
    is_fixed = not horizon or horizon in schedule or schedule.get("interval") is not None
    inexact = []
    for key in [key for key in {**old, **new} if old.get(key) != new.get(key)]:
        change = f"{_names(key)[0]}: {new.get(key)}"
        paths = [os.path.relpath(setting[name]) for name in _names(key) if name in setting]
        leave = f"Leave out --config {paths[0]}: the run has its own." if paths else ""
        if key == "seed_everything" or key.startswith("model."):
            raise ValueError(
                f"{change}, but the run to resume has {old.get(key)}. "
                f"A resumed run keeps its model, optimizer, schedule and seed.\n{leave}"
            )
        if key in ("trainer.max_epochs", "trainer.max_steps") and not is_fixed:
            raise ValueError(
                f"{change}, but the schedule of the run to resume was made for {old.get(key)}. "
                f"Train longer in a new run, or begin with model.lr_scheduler.{horizon} set.\n"
                f"{leave}"
            )
        if key.startswith(INEXACT) and not key.endswith(PACE):
            inexact.append(
                f"{change}, before {old.get(key)}. The run ends otherwise than it would. {leave}"
            )
    for text in inexact if is_rank_zero() else ():
        warn(text.rstrip())
