"""Log what the optimizer is set to."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightkeel import is_row_due


class LRMonitor(Callback):
    """Log learning rate, momentum and weight decay every ``trainer.log_every_n_steps``.

    Logs: lr, momentum (Adam's first beta), weight_decay; where groups differ, lr/GROUP. Weight
    decay is that of the groups that decay. With several optimizers, names end in their number. What
    an optimizer does not have is left out.
    """

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if is_row_due(trainer, pl_module):  # before the step: the rate that it uses
            for number, optimizer in enumerate(trainer.optimizers):
                suffix = f"/{number}" if len(trainer.optimizers) > 1 else ""
                values = read_groups(optimizer.param_groups)
                for name, value in values.items():  # in float64: 0.1 is not to be 0.10000000149
                    setting = torch.tensor(value, dtype=torch.float64)
                    pl_module.log(name + suffix, setting, batch_size=1)


def read_groups(groups: list[dict[str, Any]]) -> dict[str, float]:
    """Read the settings of an optimizer's parameter groups, by the names they are logged under."""
    rates = {g.get("name", number): float(g["lr"]) for number, g in enumerate(groups) if "lr" in g}
    is_one = len(set(rates.values())) == 1
    values = {"lr" if is_one else f"lr/{name}": rate for name, rate in rates.items()}
    momenta = [g["momentum"] if "momentum" in g else g.get("betas", [None])[0] for g in groups]
    if momenta and momenta[0] is not None:
        values["momentum"] = float(momenta[0])
    decays = [float(group["weight_decay"]) for group in groups if "weight_decay" in group]
    if decays:
        values["weight_decay"] = max(decays)
    return values
