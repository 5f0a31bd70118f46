"""A training run: fit, test the best checkpoint, and leave everything in the folder of the run."""

import errno
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.model_helpers import is_overridden

from ..callbacks import linear_fit, readings
from ..callbacks.figures import Panel
from ..callbacks.graceful_stop import GracefulStop, exits_at_signals
from ..callbacks.monitor_check import MonitorCheck, check_monitors
from ..data.seeded import SeededDataModule
from ..errors.bad_input import InputError
from ..errors.checks import warn
from ..errors.explain import explain, explained
from ..options.cli import ProjectCLI
from ..project import current
from ..runs import checkpoints, status
from ..runs.files import write_json
from ..runs.find import CHECKPOINTS
from ..runs.folder import Claim, is_rank_zero
from ..runs.listing import settings
from ..runs.loggers import MetricsCSV, TensorBoard, writing_aside
from ..runs.output import format_value, print_table, tolerated
from . import fastpath
from .devices import busy_port, ending_with_first, leave_at_exit, warn_of_slow_precision
from .exact_resume import ExactResume
from .lightning_state import end_others, exact_means
from .run_files import RunFiles


@explained()
def train(args: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
    """Make the run that the arguments ask for: its folder, a fit, a test, and what came out.

    Args:
        args: Arguments of the command.
        callbacks: Further ones, which come first and are no part of its configuration.
    """
    # Other processes end at once, also where they wait for the first and Python answers no signal.
    exits = exits_at_signals() if is_rank_zero() else nullcontext()
    with ending_with_first(), exits, writing_aside(), Claim() as claim:
        first = partial(first_callbacks, callbacks)
        cli = ProjectCLI(args, claim=claim, first_callbacks=first)
        assert cli.folder is not None
        dry: bool = cli.trainer.fast_dev_run  # type: ignore[attr-defined]
        is_first = is_rank_zero()
        record = status.recorded(cli.folder, said) if is_first else nullcontext(lambda: None)
        with exact_means(), fastpath.active(), record as write_done:
            try:
                prepare(cli)
                metrics, best = fit_and_test(cli)
                report(cli, metrics, best)
                if cli.trainer.is_global_zero and not dry:
                    # Last, for it says that the run is done: one killed before is resumed.
                    write_json(cli.folder / "metrics.json", metrics)
                    write_done()
            except BaseException as error:
                claim.keep = cli.trainer.global_step > 0 and not dry
                meant = ended(cli, cli.folder, error)
                if meant is error:
                    raise
                raise meant from None
        claim.keep = not dry
    leave_at_exit(cli.trainer)


def first_callbacks(further: Sequence[Callback], cli: ProjectCLI) -> list[Callback]:
    """Make the callbacks that every run has, after further ones."""
    assert cli.folder is not None
    seed = int(os.environ["PL_GLOBAL_SEED"])
    every = [RunFiles(cli.folder, cli.dumped), ExactResume(seed), GracefulStop(), MonitorCheck()]
    return [*further, *every]


def said(error: BaseException) -> str | None:
    """Say what is wrong in a few words, where that is not a crash."""
    return str(error) if isinstance(error, InputError) else explain(error)


def prepare(cli: ProjectCLI) -> None:
    """Find out what is wrong before a folder is made or processes are started for devices."""
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    check_monitors(trainer)
    if cli.resume_from:
        checkpoint = checkpoints.load_checkpoint(cli.resume_from)
        checkpoints.check_when_loaded(cli.resume_from, model)
        checkpoints.check_unfinished(cli.resume_from, checkpoint, trainer)
        checkpoints.restore_data(checkpoint, data)
        checkpoints.match_classes(cli.resume_from, checkpoint, data)
        again = checkpoints.matching_classes(cli.resume_from, checkpoint)
        trainer.callbacks.append(again)  # type: ignore[attr-defined]
    if isinstance(data, SeededDataModule):
        data.check_batch_sizes(trainer.world_size)
    for logger in trainer.loggers:
        if not isinstance(logger, (MetricsCSV, TensorBoard)):
            getattr(logger, "experiment", None)  # it may want a login or a server
    if isinstance(data, SeededDataModule) and is_rank_zero():
        data.prepare_data()
    cli.check_fit()
    warn_of_slow_precision(trainer)


def fit_and_test(cli: ProjectCLI) -> tuple[dict[str, float], str | None]:
    """Fit, and test the best state: return the metrics and the best checkpoint, if there is one."""
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    failed: set[Logger] = set()
    spare_loggers(trainer, failed, "finalize")
    trainer.fit(model, datamodule=data, ckpt_path=cli.resume_from, weights_only=True)
    if trainer.global_step == 0 and cli.resume_from is None and trainer.is_global_zero:
        warn(f"model: {type(model).__name__} took no optimizer step, so nothing was trained.")
    spare_loggers(trainer, failed, "log_hyperparams", "log_metrics", "save")
    metrics = results(trainer)
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    source = data if data is not None and is_overridden("test_dataloader", data) else model
    if is_overridden("test_step", model) and is_overridden("test_dataloader", source):
        trainer.test(model, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)
        metrics |= results(trainer)
    final = {name: value for name, value in metrics.items() if readings.is_result(name)}
    for logger in [log for log in trainer.loggers if isinstance(log, TensorBoard)]:
        # A table of settings and metrics. The metrics' values are there already, and of what is
        # spared one call at a time is made: they are not written again.
        logger.log_hyperparams(settings(Path(logger.log_dir)), final, trainer.global_step)
        logger.save()
    metrics |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    if cli.measured is not None and cli.measured.num_samples:
        metrics["samples_per_s"] = cli.measured.samples_per_s
        metrics["train_seconds"] = cli.measured.train_seconds
    return metrics, best


def spare_loggers(trainer: Trainer, failed: set[Logger], *methods: str) -> None:
    """Have loggers that fail in these methods be said once, and passed over from then on."""

    def attempt(logger: Logger, method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if logger not in failed:
            failed.add(logger)
            with tolerated(type(logger).__name__):
                method(*args, **kwargs)
                failed.remove(logger)

    for logger in trainer.loggers:
        for name in methods:
            setattr(logger, name, partial(attempt, logger, getattr(logger, name)))


def results(trainer: Trainer) -> dict[str, float]:
    """Read the metrics; ``NAME_step`` and ``NAME_epoch`` only where there is no ``NAME``."""
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    plain = {n: re.sub(r"_(step|epoch)(?=$|/dataloader_idx_\d+$)", "", n) for n in found}
    return {n: value for n, value in found.items() if plain[n] == n or plain[n] not in found}


def report(cli: ProjectCLI, metrics: dict[str, float], best: str | None) -> None:
    """Print and draw what came out; none of it can cost the results."""
    trainer, name = cli.trainer, type(cli.model).__name__
    reported: dict[str, str] = {}
    panels: list[Panel] = []
    with tolerated(f"{name}.report"):
        reported = getattr(cli.model, "report", partial(linear_fit.rows, trainer))()
    with tolerated(f"{name}.fitted_line"):
        panels = linear_fit.panels(trainer, cli.plots.samples) if cli.plots else []
    if not trainer.is_global_zero:
        return
    dry: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
    rows = [(n, format_value(v)) for n, v in sorted(metrics.items()) if readings.is_result(n)]
    rows += reported.items()
    paths = {} if dry else {"run": str(cli.folder), "checkpoint": best or "none"}
    with tolerated("the table of results"):
        print_table(name, rows, paths=paths)
    if cli.plots is not None and cli.folder is not None and not dry:
        with tolerated("callbacks.plots"):
            cli.plots.draw(trainer, cli.folder, panels)


def ended(cli: ProjectCLI, folder: Path, error: BaseException) -> BaseException:
    """End the other processes of a run that has failed or was stopped; say what that means."""
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
    code = error.code if isinstance(error, SystemExit) else None
    is_stop = isinstance(error, KeyboardInterrupt) or (isinstance(code, int) and code > 128)
    if is_stop and can_resume and cli.trainer.is_global_zero:
        text = f"stopped: {folder}\nresume: {current().command('train')} {resume}"
        print(text, file=sys.stderr, flush=True)
    return error


def unwritten(error: OSError, folder: Path) -> str | None:
    """Say which file of a run could not be written, and what to do, if it is about that."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    name = error.filename if isinstance(error.filename, str) else ""
    if not (is_full or folder.absolute() in Path(name).absolute().parents):
        return None
    how = "Make room" if is_full else "Set that right"
    return f"{name or f'a file in {folder}'} cannot be written ({error.strerror}).\n{how}"
