"""Log what the optimizer is set to."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class LRMonitor(Callback):
    """Log learning rate, momentum and weight decay every ``trainer.log_every_n_steps``.

    Lightning's monitor names a value for each parameter group (``lr-SGD/pg1``). Here groups that
    agree share one name, so that ``lr`` is the name in every experiment.

    Logs: lr, momentum (Adam's first beta), weight_decay; where groups differ, lr/GROUP. Weight
    decay is that of the groups that decay. With several optimizers, names end in their number.
    """

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Before the step, in the row that is written after it: the rate this step uses.
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (trainer.global_step + 1) % every == 0:
            for number, optimizer in enumerate(trainer.optimizers):
                suffix = f"/{number}" if len(trainer.optimizers) > 1 else ""
                values = read_groups(optimizer.param_groups)
                pl_module.log_dict({name + suffix: value for name, value in values.items()})


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
