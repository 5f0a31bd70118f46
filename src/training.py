"""A training run: fit, test the best checkpoint, and leave everything in the folder of the run."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from . import checkpoints, run, status
from .callbacks.monitor_check import check_monitors
from .cli import ProjectCLI
from .data.in_memory import InMemoryDataModule
from .devices import end_others, ending_with_first, leave_at_exit, warn_of_slow_precision
from .errors import STATUS_INTERRUPTED
from .explain import explain, explained
from .files import write_json
from .plots import Panel

STEP_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


@explained()
def train(args: Sequence[str]) -> None:
    """Make the run that the arguments ask for."""
    cli = ProjectCLI(args)
    assert cli.folder is not None
    unused = run.discarded_if_unused(cli.folder, lambda: cli.trainer.global_step)
    with ending_with_first(), unused, status.recorded(cli.folder, explain):
        try:
            fit_and_test(cli, cli.folder)
        except SystemExit as stop:
            # Lightning answers Ctrl-C in the test, where nothing is to be saved, with status 1.
            if cli.trainer.interrupted and stop.code == 1:
                raise SystemExit(STATUS_INTERRUPTED) from None
            leave_at_exit(cli.trainer)  # all devices stop at the same step
            raise
        except Exception:
            end_others(cli.trainer)
            raise
    leave_at_exit(cli.trainer)


def fit_and_test(cli: ProjectCLI, folder: Path) -> None:
    """Fit, test the best state, and write, print and draw what came out."""
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    prepare(cli)
    idle = () if trainer.gradient_clip_val else ("configure_gradient_clipping",)
    pass_over_idle_hooks([model], idle)
    pass_over_idle_hooks([model, *trainer.callbacks])  # type: ignore[attr-defined]
    remember_signature(model)
    trainer.fit(model, datamodule=data, ckpt_path=cli.resume_from, weights_only=True)
    # What was logged before a run was gone on with counts too.
    metrics = run.last_metrics(folder) if cli.resume_from and trainer.is_global_zero else {}
    metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    if has_test(model, data):
        trainer.test(model, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)
        metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    reported: dict[str, str] = getattr(model, "report", dict)()
    panels: list[Panel] = getattr(model, "panels", list)()
    if not trainer.is_global_zero:
        return
    metrics |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    if cli.measured is not None and cli.measured.num_samples:
        metrics["samples_per_s"] = cli.measured.samples_per_s
        metrics["train_seconds"] = cli.measured.train_seconds
    dry: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
    shown = {name: value for name, value in sorted(metrics.items()) if is_result(name)}
    rows = [(name, run.format_value(value)) for name, value in shown.items()]
    rows += reported.items()
    rows += [] if dry else [("run", str(folder)), ("best checkpoint", best or "none")]
    run.print_table(type(model).__name__, rows)
    if dry:
        return
    try:
        if cli.plots is not None:
            cli.plots.draw(trainer, folder, panels)
    finally:  # last, for it says that the run is done: one that is killed before is gone on with
        write_json(folder / "metrics.json", metrics)
        status.end(folder, "done")


def prepare(cli: ProjectCLI) -> None:
    """Find out what is wrong before a folder is made or processes are started for devices."""
    data = cli.datamodule
    check_monitors(cli.trainer, cli.model)
    if cli.resume_from:
        checkpoint = checkpoints.load_checkpoint(cli.resume_from)
        checkpoints.check_matches(cli.resume_from, checkpoint, cli.model)
        checkpoints.check_unfinished(cli.resume_from, checkpoint, cli.trainer)
        checkpoints.match_classes(cli.resume_from, checkpoint, data)
        again = checkpoints.matching_classes(cli.resume_from, checkpoint)
        cli.trainer.callbacks.append(again)  # type: ignore[attr-defined]
    if isinstance(data, InMemoryDataModule):
        data.check_batch_sizes(cli.trainer.world_size)
    for logger in cli.trainer.loggers:
        if not isinstance(logger, (run.MetricsCSV, run.TensorBoard)):
            getattr(logger, "experiment", None)  # it may want a login or a server
    if isinstance(data, InMemoryDataModule) and run.is_rank_zero():
        data.prepare_data()
    cli.check_fit()
    warn_of_slow_precision(cli.trainer)


def pass_over_idle_hooks(objects: Sequence[object], hooks: Sequence[str] = STEP_HOOKS) -> None:
    """Have Lightning leave out the hooks of a training step that nobody has defined.

    It calls each one of each callback and of the model, at 2 to 5 microseconds a call, unless there
    is nothing to call.
    """
    for part in objects:
        for hook in hooks:
            if not is_overridden(hook, part):
                setattr(part, hook, None)


def remember_signature(model: LightningModule) -> None:
    """Have Python keep what Lightning asks it in each step: the arguments of ``training_step``."""
    function: Any = type(model).training_step
    function.__signature__ = inspect.signature(function)


def is_result(name: str) -> bool:
    """Tell whether a metric belongs in the table: a result, and not a reading on the way."""
    on_the_way = ("lr", "grad/", "grad_norm/", "momentum", "weight_decay", "memory_mib")
    return not name.startswith(on_the_way) and not name.endswith("_step")


def has_test(model: LightningModule, data: LightningDataModule | None) -> bool:
    """Tell whether there is a test step and data for it."""
    source = data if data is not None and is_overridden("test_dataloader", data) else model
    return is_overridden("test_step", model) and is_overridden("test_dataloader", source)
