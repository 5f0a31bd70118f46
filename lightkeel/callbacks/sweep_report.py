"""Tell a sweep how a run gets on."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer


class SweepReport(Callback):
    """Report a metric after each epoch, once all that the epoch logs is there.

    Args:
        metric: Name of the metric; an epoch without it is not reported.
        report: Takes the number of the epoch, the value, and whether no epoch follows. Where it
            sends a signal, ``GracefulStop``, later in the list of callbacks, ends the run then.
    """

    def __init__(self, metric: str, report: Callable[[int, float, bool], None]) -> None:
        self.metric = metric
        self.report = report
        self._epoch: int | None = None  # that has ended since the last report

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch = trainer.current_epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell(trainer, is_last=False)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell(trainer, is_last=True)

    def _tell(self, trainer: Trainer, is_last: bool) -> None:
        epoch, self._epoch = self._epoch, None
        value = trainer.callback_metrics.get(self.metric)
        if epoch is not None and value is not None:
            self.report(epoch, float(value), is_last)
