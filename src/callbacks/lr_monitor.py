"""Log what the optimizer is set to."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from .. import readings


class LRMonitor(Callback):
    """Log learning rate, momentum and weight decay every ``trainer.log_every_n_steps``.

    Lightning's monitor names a value for each parameter group (``lr-SGD/pg1``). Here groups that
    agree share one name, so that ``lr`` is the name in every experiment.

    Logs: lr, momentum (Adam's first beta), weight_decay; where groups differ, lr/GROUP. Weight
    decay is that of the groups that decay. With several optimizers, names end in their number.
    """

    def __init__(self) -> None:
        self._last_read_step = -1

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Before the step, in the row that is written after it: the rate this step uses.
        step = trainer.global_step
        if readings.due(trainer, step + 1) and step != self._last_read_step:
            self._last_read_step = step
            values: dict[str, Tensor | float] = {}
            for number, optimizer in enumerate(trainer.optimizers):
                suffix = f"/{number}" if len(trainer.optimizers) > 1 else ""
                read = read_groups(optimizer.param_groups)
                values |= {name + suffix: value for name, value in read.items()}
            readings.write(trainer, step, values)


def read_groups(groups: list[dict[str, Any]]) -> dict[str, float]:
    """Read the settings of an optimizer's parameter groups, by the names they are logged under."""
    values: dict[str, float] = {}
    rates = [float(group["lr"]) for group in groups]
    if len(set(rates)) == 1:
        values["lr"] = rates[0]
    else:
        for number, (group, rate) in enumerate(zip(groups, rates, strict=True)):
            values[f"lr/{group.get('name', number)}"] = rate
    momenta = [g["momentum"] if "momentum" in g else g.get("betas", [None])[0] for g in groups]
    if momenta[0] is not None:
        values["momentum"] = float(momenta[0])
    if "weight_decay" in groups[0]:
        values["weight_decay"] = max(float(group["weight_decay"]) for group in groups)
    return values
