"""What all models that fit predictions to targets have in common."""

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection

from lightkeel.callbacks import readings
from lightkeel.fit import lightning_state as resuming
from lightkeel.models import optimizers as optim

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
WITH_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")

# Where a subclass may log what it likes: in each step, and by the end of an epoch.
IN_STEPS = {"training_step", "on_train_batch_start", "on_train_batch_end"}
IN_EPOCHS = {"validation_step", "on_train_epoch_end", "on_validation_epoch_end"}


class MeanLoss(Metric):
    """Mean of a loss over samples, whatever the sizes of the batches they came in."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        # Not float64, which Apple's GPUs lack: see `compensated_sum`.
        self.add_state("total", torch.zeros(2), dist_reduce_fx=compensated_sum)
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        added = (self.loss(outputs.float(), targets) * len(targets)).float()
        self.total = compensated_sum(
            torch.stack([self.total, torch.stack([added, torch.zeros_like(added)])])
        )
        self.count += len(targets)

    def compute(self) -> Tensor:
        return self.total.sum() / self.count


def compensated_sum(parts: Tensor) -> Tensor:
    """Add float32 numbers and keep what rounding takes away: (N, 2) -> (2,).

    Each is a value and what is to be added to it. By Knuth's TwoSum (The Art of Computer
    Programming, volume 2, section 4.2.2), which finds the rounding error of a sum exactly.
    """
    total, error = parts[0]
    for value, more in parts[1:]:
        new = total + value
        of_value = new - total
        error = error + more + ((total - (new - of_value)) + (value - of_value))
        total = new
    return torch.stack([total, error])


class SupervisedModule(LightningModule):
    """Train ``network`` so that ``loss(network(inputs), targets)`` falls.

    Logs ``train/NAME``, ``val/NAME`` and ``test/NAME`` for the loss and each metric, as means over
    an epoch, and ``train/NAME_step`` as means since the row before. In training, outputs are kept
    on the device and handed to the metrics every ``trainer.log_every_n_steps``: a call of
    ``self.log`` in each step would cost more than the step of a small model. A subclass may
    override any step: metrics that were not updated are not logged.

    Args:
        network: What is trained; its weights are initialized here.
        loss: Mean loss of a batch from outputs and targets.
        metrics: Further metrics, updated with outputs and targets.
        optimizer: Settings of the optimizer, see ``optim.check_optimizer``.
        lr_scheduler: Settings of the learning-rate schedule, see ``optim.check_scheduler``.
        l1_penalty: Factor on the sum of absolute weights (not biases, not norms) in the loss.
        weight_init: Of linear and convolution layers: PyTorch's own, Glorot & Bengio 2010
            (uniform), or He et al. 2015 (normal); the last two start biases at zero.
        compile_mode: Compile the network with this mode of ``torch.compile`` when training begins;
            names in checkpoints stay as they are. On GPUs, gradients can be accumulated over
            batches in modes without CUDA graphs alone.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        metrics: Mapping[str, Metric],
        optimizer: dict[str, Any] | None = None,
        lr_scheduler: dict[str, Any] | None = None,
        l1_penalty: float = 0.0,
        weight_init: Literal["default", "xavier", "he"] = "default",
        compile_mode: CompileMode | None = None,
    ) -> None:
        super().__init__()
        self.optimizer_settings = optimizer or {"name": "SGD", "lr": 0.1}
        self.scheduler_settings = lr_scheduler
        optim.check_optimizer(self.optimizer_settings)
        optim.check_scheduler(lr_scheduler, self.optimizer_settings)
        if l1_penalty < 0:
            raise ValueError(f"l1_penalty: {l1_penalty} is negative.")
        modes = get_args(CompileMode)
        if compile_mode not in (None, *modes):
            choices = ", ".join(f"`{mode}`" for mode in modes)
            raise ValueError(f"compile_mode: {compile_mode!r} is none of {choices}, null.")
        self.l1_penalty = l1_penalty
        self.compile_mode = compile_mode
        self.network = network
        self.loss = loss
        all_metrics: dict[str, Metric | MetricCollection] = {"loss": MeanLoss(loss), **metrics}
        self.train_metrics = MetricCollection(all_metrics, prefix="train/")
        self.val_metrics = self.train_metrics.clone(prefix="val/")
        self.test_metrics = self.train_metrics.clone(prefix="test/")
        self._unread: deque[Batch] = deque()  # no list, which `ExactResume` would save
        self._resumed: list[list[Batch]] | None = None
        initialize(network, weight_init)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the hook it is in some 20 times a step, and each time PyTorch would look
        # whether that is a parameter, a module or a buffer: 2 microseconds.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @property
    def monitorable(self) -> set[str]:
        """Names of the metrics that a callback or schedule can watch during training.

        Raises:
            AttributeError: A subclass has steps or hooks of its own, and may log anything.
        """
        if self._overrides(IN_STEPS | IN_EPOCHS):
            raise AttributeError(f"{type(self).__name__} may log anything")
        return {str(name) for part in (self.train_metrics, self.val_metrics) for name in part}

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs)
        # The graphs of a compiled network write the next outputs to the same place.
        return outputs.clone() if self.compile_mode else outputs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, targets = batch
        try:
            outputs = self(inputs)
        except ValueError as error:
            if len(inputs) == 1 and any(map(is_batch_norm, self.network.modules())):
                raise FloatingPointError(
                    f"batch {batch_idx} of the epoch holds one sample, whose mean and variance are "
                    f"no statistics for batch normalization ({error}).\nLeave it out with "
                    "data.drop_last true, or choose another data.batch_size."
                ) from None
            raise
        self._unread.append((outputs.detach(), targets))
        loss = self.loss(outputs, targets)
        if self.l1_penalty:
            weights = (p for p in self.network.parameters() if p.ndim > 1)
            loss = loss + self.l1_penalty * sum(w.abs().sum() for w in weights)
        return loss

    def on_fit_start(self) -> None:
        if self.compile_mode:
            self._check_compile_mode()
            self.network.compile(mode=self.compile_mode)

    def _check_compile_mode(self) -> None:
        """Refuse CUDA graphs where gradients are accumulated: the next batch overwrites them."""
        schedules = [
            callback
            for callback in self.trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler)
        ]
        accumulates = self.trainer.accumulate_grad_batches > 1 or any(
            schedule.going_to_accumulate_grad_batches() for schedule in schedules
        )
        graphs = self.compile_mode in WITH_CUDA_GRAPHS and self.device.type == "cuda"
        if graphs and accumulates:
            raise ValueError(
                f"compile_mode: {self.compile_mode} uses CUDA graphs, in which each batch would "
                "overwrite the gradients of the one before, which are to be accumulated.\n"
                "Use `default` or `max-autotune-no-cudagraphs`, or accumulate over one batch."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        unread = [tuple(map(torch.cat, zip(*self._unread, strict=True)))] if self._unread else []
        on_cpu = [[part.cpu() for part in batch] for batch in unread]
        checkpoint["unread"] = resuming.gather(self.trainer, on_cpu)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed = checkpoint.get("unread")

    def on_train_start(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None and len(resumed) == self.trainer.world_size:
            mine = resumed[self.trainer.global_rank]
            self._unread = deque((o.to(self.device), t.to(self.device)) for o, t in mine)

    def on_train_epoch_start(self) -> None:
        self._unread.clear()  # of an epoch that was broken off
        self.train_metrics.reset()

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # Not in `on_train_batch_end`: a checkpoint of the step, which holds its row, comes before.
        trainer, step = self.trainer, readings.current_step(self.trainer)
        if readings.due(trainer, step + 1) and self._unread:
            means = self.train_metrics(*self._take_unread())
            mean = partial(trainer.strategy.reduce, reduce_op="mean")  # over devices
            values = {f"{name}_step": mean(value) for name, value in means.items()}
            # Else Lightning adds to the row what the model itself logs.
            readings.write(trainer, step, values, done=not self._overrides(IN_STEPS))

    def on_train_epoch_end(self) -> None:
        if self._unread:
            self.train_metrics.update(*self._take_unread())
        trainer, metrics = self.trainer, self.train_metrics
        # Not by `self.log`, whose row would come after the checkpoint of the epoch.
        step = readings.current_step(trainer) - 1
        readings.write(trainer, step, computed(metrics), done=True)
        metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate(batch, self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        self._log_and_reset(self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate(batch, self.test_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_and_reset(self.test_metrics)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optim.configure(self, self.optimizer_settings, self.scheduler_settings)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        # What the optimizer's own does, without its profiling: 30 microseconds.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _overrides(self, hooks: set[str]) -> bool:
        """Tell whether a subclass has one of ``hooks`` of its own."""
        classes = type(self).__mro__
        own = classes[: classes.index(SupervisedModule)]
        return any(hooks & vars(cls).keys() for cls in own)

    def _evaluate(self, batch: Batch, metrics: MetricCollection) -> Tensor:
        """Update metrics, and return the outputs: callbacks are given them."""
        outputs: Tensor = self(batch[0])
        metrics.update(outputs, batch[1])
        return outputs

    def _take_unread(self) -> Batch:
        outputs, targets = (torch.cat(tensors) for tensors in zip(*self._unread, strict=True))
        self._unread.clear()
        return outputs, targets

    def _log_and_reset(self, metrics: MetricCollection) -> None:
        # All ranks hold the same values: torchmetrics reduces its states in `compute`.
        self.log_dict(computed(metrics), sync_dist=True)
        metrics.reset()


def is_batch_norm(layer: nn.Module) -> bool:
    """Tell whether a layer takes its statistics from the batch."""
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)


def computed(metrics: MetricCollection) -> dict[str, Any]:
    """Compute those metrics that were updated: a step that was overridden may leave some out."""
    updated = {str(name): metric.update_called for name, metric in metrics.items()}
    if all(updated.values()):
        return metrics.compute()
    return {name: metrics[name].compute() for name in updated if updated[name]}


def initialize(network: nn.Module, scheme: Literal["default", "xavier", "he"]) -> None:
    """Initialize linear and convolution layers of ``network`` in place.

    Raises:
        ValueError: ``scheme`` is none of the three.
    """
    if scheme not in ("default", "xavier", "he"):
        raise ValueError(f"weight_init: {scheme!r} is none of `default`, `xavier`, `he`.")
    if scheme == "default":
        return
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            if scheme == "xavier":
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
