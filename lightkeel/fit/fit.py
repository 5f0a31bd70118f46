"""A training run: fit, test the best checkpoint, and leave everything in the folder of the run."""

import errno
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.model_helpers import is_overridden

from ..callbacks import readings
from ..callbacks.figures import Panel
from ..callbacks.graceful_stop import GracefulStop, exits_at_signals
from ..callbacks.monitor_check import MonitorCheck, check_monitors
from ..data.in_memory import InMemoryDataModule
from ..errors.bad_input import InputError
from ..errors.checks import warn
from ..options.cli import ProjectCLI
from ..options.explain import explain, explained
from ..project import current
from ..runs import checkpoints, status
from ..runs.files import write_json
from ..runs.find import CHECKPOINTS
from ..runs.folder import Claim, is_rank_zero
from ..runs.loggers import MetricsCSV, TensorBoard, writing_aside
from ..runs.output import format_value, print_table, tolerated
from .devices import busy_port, end_others, ending_with_first, leave_at_exit, warn_of_slow_precision
from .exact_resume import ExactResume
from .run_files import RunFiles

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
    # Other processes end at once, also where they wait for the first and Python answers no signal.
    exits = exits_at_signals() if is_rank_zero() else nullcontext()
    with ending_with_first(), exits, writing_aside(), Claim() as claim:
        cli = ProjectCLI(args, claim=claim, first_callbacks=first_callbacks)
        assert cli.folder is not None
        dry: bool = cli.trainer.fast_dev_run  # type: ignore[attr-defined]
        with recorded(cli.folder) as write_done:
            try:
                fit_and_test(cli, cli.folder, write_done)
            except BaseException as error:
                claim.keep = cli.trainer.global_step > 0 and not dry
                meant = ended(cli, cli.folder, error)
                if meant is error:
                    raise
                raise meant from None
        claim.keep = not dry
    leave_at_exit(cli.trainer)


def first_callbacks(cli: ProjectCLI) -> list[Callback]:
    """Make the callbacks that every run has."""
    assert cli.folder is not None
    seed = int(os.environ["PL_GLOBAL_SEED"])
    own = RunFiles(cli.folder, cli.dumped)
    return [MonitorCheck(), own, ExactResume(seed), GracefulStop()]


def recorded(folder: Path) -> AbstractContextManager[Callable[[], None]]:
    """Record in ``status.json`` how a run ends, where this is its first process."""
    if not is_rank_zero():
        return nullcontext(lambda: None)

    def said(error: BaseException) -> str | None:
        return str(error) if isinstance(error, InputError) else explain(error)

    return status.recorded(folder, said)


def ended(cli: ProjectCLI, folder: Path, error: BaseException) -> BaseException:
    """End the other processes of a run that has failed or was stopped; say how to resume it.

    Returns:
        What the error means.
    """
    by_lightning = isinstance(error, SystemExit) and cli.trainer.interrupted
    if by_lightning and isinstance(error.__context__, KeyboardInterrupt):
        error = error.__context__  # which it answers with status 1
    if isinstance(error, SystemExit):
        leave_at_exit(cli.trainer)  # all devices stop at the same step
    else:
        end_others(cli.trainer)
    if wrong := busy_port(error):
        return InputError(wrong)
    can_resume = any((folder / CHECKPOINTS).glob("*.ckpt"))
    resume = f"--resume {shlex.quote(str(folder))}"
    cause = error
    while cause.__cause__ is not None:  # Lightning turns those of TensorBoard into others
        cause = cause.__cause__
    if isinstance(cause, OSError) and (wrong := unwritten(cause, folder)):
        return InputError(f"{wrong}, then {f'resume: {resume}' if can_resume else 'start again.'}")
    is_stop = isinstance(error, KeyboardInterrupt) or (
        isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128
    )
    if is_stop and can_resume and cli.trainer.is_global_zero:
        text = f"stopped: {folder}\nresume: {current().command('train')} {resume}"
        print(text, file=sys.stderr, flush=True)
    return error


def unwritten(error: OSError, folder: Path) -> str | None:
    """Say which file of a run could not be written, and what to do; None: it is not about that."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    name = error.filename if isinstance(error.filename, str) else ""
    is_own = folder.absolute() in Path(name).absolute().parents
    if not (is_full or is_own):
        return None
    name = name or f"a file in {folder}"
    how = "Make room" if is_full else "Set that right"
    return f"{name} cannot be written ({error.strerror}).\n{how}"


def fit_and_test(cli: ProjectCLI, folder: Path, write_done: Callable[[], None]) -> None:
    """Fit, test the best state, and write, print and draw what came out."""
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    prepare(cli)
    idle = () if trainer.gradient_clip_val else ("configure_gradient_clipping",)
    pass_over_idle_hooks([model], idle)
    pass_over_idle_hooks([model, *trainer.callbacks])  # type: ignore[attr-defined]
    remember_signature(model)
    failed = spare_loggers(trainer, set(), "finalize")
    trainer.fit(model, datamodule=data, ckpt_path=cli.resume_from, weights_only=True)
    if trainer.global_step == 0 and cli.resume_from is None and trainer.is_global_zero:
        warn(f"model: {type(model).__name__} took no optimizer step, so nothing was trained.")
    spare_loggers(trainer, failed, "log_hyperparams", "log_metrics", "save")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    if has_test(model, data):
        trainer.test(model, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)
        metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    reported: dict[str, str] = {}
    panels: list[Panel] = []
    with tolerated(f"{type(model).__name__}.report"):
        reported = getattr(model, "report", dict)()
    with tolerated(f"{type(model).__name__}.panels"):
        panels = getattr(model, "panels", list)()
    if not trainer.is_global_zero:
        return
    metrics |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    if cli.measured is not None and cli.measured.num_samples:
        metrics["samples_per_s"] = cli.measured.samples_per_s
        metrics["train_seconds"] = cli.measured.train_seconds
    dry: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
    shown = {name: value for name, value in sorted(metrics.items()) if is_shown(name)}
    rows = [(name, format_value(value)) for name, value in shown.items()]
    rows += reported.items()
    rows += [] if dry else [("run", str(folder)), ("best checkpoint", best or "none")]
    with tolerated("the table of results"):
        print_table(type(model).__name__, rows)
    if dry:
        return
    if cli.plots is not None:
        with tolerated("callbacks.plots"):
            cli.plots.draw(trainer, folder, panels)
    # Last, for it says that the run is done: one that is killed before is gone on with.
    write_json(folder / "metrics.json", metrics)
    write_done()


def spare_loggers(trainer: Trainer, failed: set[int], *methods: str) -> set[int]:
    """Have loggers that fail in these methods be said once, and passed over from then on.

    Args:
        trainer: Whose loggers.
        failed: Which have failed so far.
        methods: Names of what a run can do without.
    """
    for logger in trainer.loggers:
        for name in methods:
            setattr(logger, name, partial(attempt, failed, logger, getattr(logger, name)))
    return failed


def attempt(
    failed: set[int], logger: Logger, method: Callable[..., None], *args: Any, **kwargs: Any
) -> None:
    """Call a method of a logger that has not ``failed``; see ``spare_loggers``."""
    if id(logger) not in failed:
        failed.add(id(logger))
        with tolerated(type(logger).__name__):
            method(*args, **kwargs)
            failed.remove(id(logger))


def prepare(cli: ProjectCLI) -> None:
    """Find out what is wrong before a folder is made or processes are started for devices."""
    data = cli.datamodule
    check_monitors(cli.trainer, cli.model)
    if cli.resume_from:
        checkpoint = checkpoints.load_checkpoint(cli.resume_from)
        checkpoints.check_when_loaded(cli.resume_from, cli.model)
        checkpoints.check_unfinished(cli.resume_from, checkpoint, cli.trainer)
        checkpoints.match_classes(cli.resume_from, checkpoint, data)
        again = checkpoints.matching_classes(cli.resume_from, checkpoint)
        cli.trainer.callbacks.append(again)  # type: ignore[attr-defined]
    if isinstance(data, InMemoryDataModule):
        data.check_batch_sizes(cli.trainer.world_size)
    for logger in cli.trainer.loggers:
        if not isinstance(logger, (MetricsCSV, TensorBoard)):
            getattr(logger, "experiment", None)  # it may want a login or a server
    if isinstance(data, InMemoryDataModule) and is_rank_zero():
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


def is_shown(name: str) -> bool:
    """Tell whether a metric belongs in the table: a result over an epoch."""
    return readings.is_result(name) and not name.endswith("_step")


def has_test(model: LightningModule, data: LightningDataModule | None) -> bool:
    """Tell whether there is a test step and data for it."""
    source = data if data is not None and is_overridden("test_dataloader", data) else model
    return is_overridden("test_step", model) and is_overridden("test_dataloader", source)
