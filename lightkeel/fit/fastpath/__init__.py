"""Make the steps of any module cheaper from outside, without changing a bit of what comes out.

Within ``active()``, the functions of Lightning in ``SEAMS`` are replaced by quicker ones. What a
replacement does not cover goes to Lightning's own. See docs/lightning.md.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.plugins import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer import call, trainer as trainer_file
from lightning.pytorch.trainer.connectors import data_connector
from lightning.pytorch.trainer.connectors.logger_connector import logger_connector, result
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from packaging.specifiers import SpecifierSet
from torch.nn.utils import clip_grad
from torch.optim import Optimizer, optimizer
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import stat_scores

from . import hooks, logged, step

TESTED = SpecifierSet(">=2.6,<2.7")  # versions of Lightning
SWITCH = "LIGHTKEEL_FASTPATH"  # environment variable: 0 leaves Lightning as it is

# What is replaced, and why; microseconds are those of a step of linear regression, of 520.
SEAMS: tuple[tuple[Any, str, Any], ...] = (
    # Checks, metadata and moves for each value: 300 a value, 10 to 16 without.
    (LightningModule, "log", logged.log),
    # The host waits for the device in each step that logs with `prog_bar`.
    (result, "convert_tensors_to_scalars", logged.unread),
    (_LoggerConnector, "progress_bar_metrics", property(logged.progress_bar_metrics)),
    (_LoggerConnector, "teardown", logged.teardown),
    # The host waits for the device once a value, and not once a row.
    (logger_connector, "convert_tensors_to_scalars", logged.numbers),
    # Contexts of profilers, and PyTorch's search for parameters: 65, 50 and 20.
    (call, "_call_callback_hooks", hooks.call_callback_hooks),
    (call, "_call_lightning_module_hook", hooks.call_module_hook),
    (call, "_call_strategy_hook", hooks.call_strategy_hook),
    # The signature of `training_step`: 25.
    (training_epoch_loop, "is_param_in_hook_signature", hooks.is_parameter),
    # Two hooks to find that there is no limit: 17.
    (Precision, "_clip_gradients", step.clip_gradients),
    # Operations of a device: two, one, and five for each update of an accuracy.
    (ClosureResult, "from_training_step_output", step.step_output),
    (LightningModule, "backward", step.backward),
    (stat_scores, "_multiclass_stat_scores_update", step.count_classes),
    # Nine searches for the loop at hand, by its stage: 4 to 11.
    (Trainer, "_results", property(hooks.results)),
    # Eight comparisons of code, which does not change: 19.
    (data_connector, "is_overridden", hooks.is_overridden),
    (trainer_file, "is_overridden", hooks.is_overridden),
    # PyTorch's search for parameters at each state of a metric: 6, and 19 of SimpleCNN.
    (Metric, "__setattr__", step.set_attribute),
    (MetricCollection, "__setattr__", step.set_attribute),
    # Labels for a profiler, at the batch, the step and `zero_grad`: 78.
    (torch.autograd.profiler, "record_function", step.record),
    # Whether there is a GPU at all, asked of its driver in each step of Adam: 312 without a GPU.
    (Optimizer, step.CHECK_NAME, step.capture_check),
    # Contexts without gradients around what has none: 6 to 9 of SimpleCNN.
    (clip_grad, "_group_tensors_by_device_and_dtype", step.group_tensors),
    (optimizer, "_group_tensors_by_device_and_dtype", step.group_tensors),
    # Generators for a profiler that does nothing: 3 to 5.
    (PassThroughProfiler, "profile", hooks.profile),
)


def is_wanted() -> bool:
    """Tell whether this version of Lightning was tested, and nobody has switched it off."""
    return os.environ.get(SWITCH) != "0" and lightning.__version__ in TESTED


def is_active() -> bool:
    """Tell whether functions of Lightning are replaced at the moment."""
    return LightningModule.log is logged.log


@contextmanager
def active() -> Iterator[None]:
    """Replace functions of Lightning within this block, for all trainers, where ``is_wanted``."""
    with ExitStack() as replaced:
        for owner, name, replacement in SEAMS if is_wanted() else ():
            replaced.enter_context(patch.object(owner, name, replacement))
        yield
