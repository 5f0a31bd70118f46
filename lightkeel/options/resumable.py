"""Which settings a resumed run may change."""

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
    *("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "timeout_s"),
    *("device_resident", "cache_dir", "val_batch_size"),
)


def check_resumable(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a setting that a resumed run can no longer change.

    Of others that keep it from being exact, say so on standard error.

    Args:
        before: Resolved configuration of the run.
        now: The one to go on with.
    """
    old, new = (flatten(config) for config in (before, now))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    for key in changed:
        if key == "seed_everything" or key.startswith("model."):
            raise ValueError(
                f"{key.replace('.init_args', '')}: {new.get(key)}, but the run to resume has "
                f"{old.get(key)}. A resumed run keeps its model, optimizer, schedule and seed."
            )
    inexact = [key for key in changed if key.startswith(INEXACT) and not key.endswith(PACE)]
    for key in inexact if is_rank_zero() else []:
        name = key.replace(".init_args", "")
        text = (
            f"{name}: {new.get(key)}, before {old.get(key)}. The run ends otherwise than it would."
        )
        warn(text)
    schedule = now["model"].get("init_args", {}).get("lr_scheduler") or {}
    horizon = optim.HORIZON.get(str(schedule.get("name", "")).rpartition(".")[2])
    if horizon and horizon not in schedule and schedule.get("interval") is None:
        for key in ("trainer.max_epochs", "trainer.max_steps"):
            if key in changed:
                raise ValueError(
                    f"{key}: {new.get(key)}, but the schedule of the run to resume was made for "
                    f"{old.get(key)}. Train longer in a new run, or begin with "
                    f"model.lr_scheduler.{horizon} set."
                )
