"""A look at the experiment before the first trial, in a process of its own.

Each value of the space is read by the parser of the experiment's options, which makes the model,
the data and the trainer with it; then one batch is trained, to learn which metrics there are.
"""

from contextlib import redirect_stdout
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CUDAAccelerator

from ..callbacks.direction import find_mode
from ..callbacks.readings import is_result
from ..errors.bad_input import InputError
from ..errors.checks import suggest
from ..fit.fit import train
from ..options.cli import ProjectCLI
from ..options.configs import resolve_configs
from ..project import Project
from ..runs.safe_yaml import flatten
from .plan import Probed, Sweep, args_of, describe
from .space import Range, Space, each_value

# Of one batch, on one device, of which nothing is left; also where the experiment says otherwise.
BRIEF = ("fast_dev_run=1", "devices=1", "num_nodes=1", "strategy=auto", "overfit_batches=0")


class Watch(Callback):
    """Note what is logged in training and validation, and what the checkpoint monitors."""

    def __init__(self) -> None:
        self.logged: list[str] = []
        self.monitor: str | None = None
        self.modes: dict[str, str | None] = {}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = trainer.callback_metrics
        self.logged = [n for n in logged if is_result(n) and not n.endswith("_step")]
        self.modes = {name: find_mode(name, pl_module) for name in self.logged}
        checkpoint: Any = trainer.checkpoint_callback
        if monitor := getattr(checkpoint, "monitor", None):
            self.monitor, self.modes = monitor, {**self.modes, monitor: checkpoint.mode}


def look(project: Project, sweep: Sweep) -> Probed:
    """Find out what an experiment logs, and whether it takes every value of the space.

    Raises:
        InputError: A value that does not fit, a metric that is never logged, or what a run of the
            first point refuses.
    """
    project.use()
    first = each_value(sweep.space)[0]
    cli = check_values(sweep)
    seed = cli.config.seed_everything
    if seed is True:
        raise InputError("seed_everything: true is no number. Give one, for seeds to count up.")
    watch = Watch()
    with TemporaryDirectory() as place, redirect_stdout(StringIO()):
        brief = [f"--trainer.{setting}" for setting in BRIEF]
        train([*args_of(sweep, first), *brief, "--runs_dir", place], [watch])
    metric, mode = choose_metric(sweep, watch)
    is_on_gpu = isinstance(cli.trainer.accelerator, CUDAAccelerator)
    num_gpus = torch.cuda.device_count() if is_on_gpu else 0
    return Probed(metric, mode, num_gpus, cli.experiment, seed)


def check_values(sweep: Sweep) -> ProjectCLI:
    """Have the parser read each choice and each end of a range, and make what comes of it.

    Returns:
        What the first point makes: model, data, and a trainer.
    """
    first, *others = each_value(sweep.space)
    point = first
    try:
        cli = ProjectCLI(args_of(sweep, first), training=False)
        for point in (*others, first):
            arguments, _ = resolve_configs(args_of(sweep, point))
            cli.parse_arguments(cli.parser, arguments)
            check_whole(sweep.space, cli.config.as_dict())
            cli.instantiate_classes()
    except InputError as error:
        raise InputError(f"{error}\nTried: {describe(point)}" if point else str(error)) from None
    return cli


def choose_metric(sweep: Sweep, watch: Watch) -> tuple[str, str]:
    """Return the metric to be searched for, which runs log as they train, and its mode.

    Each as the sweep says, or as the checkpoint has it; a mode by the metric's name, too.
    """
    metric = sweep.metric or watch.monitor
    if metric is None or metric not in watch.logged:
        wrong = "is never logged in training or validation."
        hint = suggest(metric or "", watch.logged, True)
        raise InputError(f"metric: {f'`{metric}` {wrong}' if metric else 'missing.'} {hint}")
    mode = sweep.mode or watch.modes[metric]
    if mode is None:
        why = f"missing, and `{metric}` does not tell whether less or more is better."
        raise InputError(f"mode: {why} Give min or max.")
    return metric, mode


def check_whole(space: Space, config: dict[str, Any]) -> None:
    """Raise ``InputError`` for a range of whole numbers where the option takes any number."""
    values = {name.replace(".init_args", ""): value for name, value in flatten(config).items()}
    for name, made in space.items():
        is_whole = isinstance(made, Range) and made.is_whole and not made.step
        if is_whole and isinstance(values.get(name), float):
            low, high = made.ends
            raise InputError(
                f"space.{name}: {low} to {high} are whole numbers, but it takes fractions. Write "
                f"{low}.0 to {high}.0, or add step: 1."
            )
