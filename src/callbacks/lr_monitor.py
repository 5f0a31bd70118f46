"""Log what the optimizer is set to."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightkeel.callbacks import readings


class LRMonitor(Callback):
    """Log learning rate, momentum and weight decay every ``trainer.log_every_n_steps``.

    Lightning's monitor names a value for each parameter group (``lr-SGD/pg1``). Here groups that
    agree share one name, so that ``lr`` is the name in every experiment.

    Logs: lr, momentum (Adam's first beta), weight_decay; where groups differ, lr/GROUP. Weight
    decay is that of the groups that decay. With several optimizers, names end in their number. What
    an optimizer does not have is left out.
    """

    def __init__(self) -> None:
        self._last_read_step = -1

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Before the step, in the row that is written after it: the rate this step uses.
        step = readings.current_step(trainer)
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
    rates = {g.get("name", number): float(g["lr"]) for number, g in enumerate(groups) if "lr" in g}
    if len(set(rates.values())) == 1:
        values["lr"] = next(iter(rates.values()))
    else:
        values |= {f"lr/{name}": rate for name, rate in rates.items()}
    momenta = [g["momentum"] if "momentum" in g else g.get("betas", [None])[0] for g in groups]
    if momenta and momenta[0] is not None:
        values["momentum"] = float(momenta[0])
    decays = [float(group["weight_decay"]) for group in groups if "weight_decay" in group]
    if decays:
        values["weight_decay"] = max(decays)
    return values
