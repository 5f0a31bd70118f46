"""What all models that fit predictions to targets have in common."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightkeel import at_least, check_optimizers, configure_optimizers, initialize

Batch = tuple[Tensor, Tensor]


class SupervisedModule(LightningModule):
    """Train ``network`` so that ``loss(network(inputs), targets)`` falls.

    Logs the loss and each metric as ``train/NAME``, ``val/NAME`` and ``test/NAME``: means over the
    samples of an epoch, on all devices; and ``train/loss_step``, of a batch.

    Args:
        network: What is trained; its weights are initialized here.
        loss: Mean loss of a batch from outputs and targets.
        metrics: Further metrics, updated with outputs and targets.
        optimizer: ``name`` of a class of ``torch.optim`` and its arguments, see
            ``lightkeel.check_optimizers``.
        lr_scheduler: The same of ``torch.optim.lr_scheduler``.
        l1_penalty: Factor on the sum of absolute weights (not biases, not norms) in the loss.
        weight_init: Of linear and convolution layers: PyTorch's own, Glorot & Bengio 2010
            (uniform), or He et al. 2015 (normal); the last two start biases at zero.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        metrics: Mapping[str, Metric],
        optimizer: dict[str, Any] | None = None,
        lr_scheduler: dict[str, Any] | None = None,
        l1_penalty: float = 0.0,
        weight_init: Literal["default", "xavier", "he"] = "default",
        **old: Any,
    ) -> None:
        super().__init__()
        if unknown := old.keys() - {"compile_mode"}:  # of old checkpoints: `callbacks.compile` now
            raise TypeError(f"{type(self).__name__} has no argument `{min(unknown)}`.")
        self.optimizer_settings = optimizer or {"name": "SGD", "lr": 0.1}
        self.lr_scheduler_settings = lr_scheduler
        check_optimizers(self.optimizer_settings, lr_scheduler)
        at_least(0, l1_penalty=l1_penalty)
        self.l1_penalty = l1_penalty
        self.network, self.loss = network, loss
        self.train_metrics = MetricCollection(dict(metrics), prefix="train/")
        self.val_metrics = self.train_metrics.clone(prefix="val/")
        self.test_metrics = self.train_metrics.clone(prefix="test/")
        initialize(network, weight_init)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs)
        return outputs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, targets = batch
        outputs, size = self(inputs), len(targets)
        loss = self.loss(outputs, targets)
        self.train_metrics.update(outputs, targets)
        self.log("train/loss_step", loss)
        # Apart from it, as devices wait for each other where they average: once an epoch.
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        if self.l1_penalty:
            weights = (p for p in self.network.parameters() if p.ndim > 1)
            loss = loss + self.l1_penalty * sum(weight.abs().sum() for weight in weights)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, targets = batch
        outputs: Tensor = self(inputs)
        self.val_metrics.update(outputs, targets)
        self.log("val/loss", self.loss(outputs, targets), sync_dist=True, batch_size=len(targets))
        self.log_dict(self.val_metrics)
        return outputs  # callbacks look at them

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, targets = batch
        outputs: Tensor = self(inputs)
        self.test_metrics.update(outputs, targets)
        self.log("test/loss", self.loss(outputs, targets), sync_dist=True, batch_size=len(targets))
        self.log_dict(self.test_metrics)
        return outputs

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure_optimizers(self, self.optimizer_settings, self.lr_scheduler_settings)
