"""The command line: Lightning's own, with this project's names, callbacks and run folders."""

import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler

from . import data as data, models as models, run, safe_yaml  # naming them makes short names known
from .callbacks import (
    Checkpoint,
    GracefulStop,
    GradientAccumulation,
    GradientClipping,
    GradientNorms,
    ImageSummaries,
    LayerCheck,
    Lookahead,
    LRMonitor,
    MonitorCheck,
    Nonfinite,
    Plots,
    Progress,
    RandomState,
    Throughput,
)
from .checkpoints import WholeCheckpointIO
from .data.in_memory import InMemoryDataModule
from .devices import follow_torchrun
from .errors import InputError
from .explain import attribute, explain_parsing, explain_unparsed
from .find import DEFAULT_CONFIG, damage, experiment_name, find_resumable
from .options import COMMAND_LINE, check_finite, resolve_configs


@dataclass
class Callbacks:
    """Each can be set by its name, or switched off with ``null``.

    Args:
        nonfinite: Stop where a loss is NaN or infinite, or leave such steps out.
        layer_check: Name the first layer that makes NaN or infinity.
        gradient_norms: Log the size of each layer's gradient.
        gradient_clipping: Limit gradients before each step.
        gradient_accumulation: Several batches for one optimizer step.
        lookahead: Average weights, and go on from the average.
        lr_monitor: Log learning rate, momentum and weight decay.
        image_summaries: Images, features, filters and mistakes for TensorBoard.
        checkpoint: Write best.ckpt and last.ckpt.
        early_stopping: Lightning's own: stop when a metric no longer improves.
        throughput: Measure samples per second and memory.
        progress: Show how the run gets on.
        plots: Draw pictures when the run has ended.
    """

    nonfinite: Nonfinite | None = None
    layer_check: LayerCheck | None = None
    gradient_norms: GradientNorms | None = None  # after what leaves steps out
    gradient_clipping: GradientClipping | None = None  # after what looks at gradients whole
    gradient_accumulation: GradientAccumulation | None = None
    lookahead: Lookahead | None = None
    lr_monitor: LRMonitor | None = None
    image_summaries: ImageSummaries | None = None
    checkpoint: Checkpoint | None = None
    early_stopping: EarlyStopping | None = None
    throughput: Throughput | None = None
    progress: Progress | None = None
    plots: Plots | None = None


# On unless switched off: they need no choice.
DEFAULT_CALLBACKS = {
    "nonfinite": Nonfinite,
    "gradient_norms": GradientNorms,
    "gradient_accumulation": GradientAccumulation,
    "lr_monitor": LRMonitor,
    "image_summaries": ImageSummaries,
    "checkpoint": Checkpoint,
    "throughput": Throughput,
    "progress": Progress,
    "plots": Plots,
}


READ_YAML = get_loader("yaml")


class Parser(LightningArgumentParser):
    """A parser whose complaints are short; jsonargparse makes one more for each class within."""

    owner = COMMAND_LINE

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        if not (args or kwargs.get("nested_key")):
            self.owner = theclass.__name__
        added: list[str] = super().add_class_arguments(theclass, *args, **kwargs)
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if message.endswith("arguments are required: model"):
            raise InputError(
                "model: missing. Put an experiment before the overlays, such as "
                f"--config {DEFAULT_CONFIG}, or give --model."
            )
        raise InputError(explain_parsing(message, ex, self, self.owner)) from ex


class ProjectCLI(LightningCLI):
    """Everything a command needs, built from its arguments: model, data, trainer, run folder.

    Args:
        args: Command line, without the name of the program.
        training: Whether to write a run; without, the trainer has neither loggers nor callbacks.
    """

    def __init__(self, args: Sequence[str], training: bool = True) -> None:
        self.training = training
        self.folder: Path | None = None
        self.resume_from: Path | None = None
        self.measured: Throughput | None = None
        self.plots: Plots | None = None
        quiet()
        set_loader("yaml", read_yaml, (yaml.YAMLError,))  # also of files that a value names
        arguments, self.config_paths = resolve_configs(list(args))
        super().__init__(
            LightningModule,
            save_config_callback=None,
            trainer_defaults={"enable_model_summary": False},
            seed_everything_default=0,
            parser_kwargs={"allow_abbrev": False},
            parser_class=Parser,
            subclass_mode_model=True,
            args=arguments,
            run=False,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--runs_dir", default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--run_name", type=str | None, default=None, help="Name of this run's folder."
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Go on with a run: its folder, a .ckpt file, `last`, or `auto`: the newest "
            "unfinished run of the experiment if there is one (of this run_name, where given), "
            "else a new run.",
        )
        parser.add_argument("--callbacks", type=Callbacks, help="Named callbacks, null: off.")
        parser.set_defaults(
            {
                f"callbacks.{name}": {"class_path": f"{cls.__module__}.{cls.__qualname__}"}
                for name, cls in DEFAULT_CALLBACKS.items()
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)
        try:
            self.config = parser.parse_args(args)
        except InputError:
            raise
        except Exception as error:
            message = explain_unparsed(error)
            if message is None:
                raise
            raise InputError(message) from error
        check_finite(self.config.as_dict())

    def before_instantiate_classes(self) -> None:
        if self.training:
            self._choose_folder()
            self.dumped = self._dump()  # without the name that loggers are given
            self._name_loggers()

    def _set_seed(self) -> None:
        seed = self.config.seed_everything
        if seed is None or seed is False:
            given = "null" if seed is None else "false"
            raise InputError(f"seed_everything: {given}, but every run is seeded. Give a number.")
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise InputError(f"seed_everything: {seed} is not in [0, 2**32).")
        super()._set_seed()

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, FileNotFoundError) as error:  # refused by a constructor, ours or not
            raise InputError(attribute(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings: dict[str, Any] = {**self.config_init.trainer, **kwargs}
        follow_torchrun(settings)
        if not self.training:
            settings |= {"logger": False, "callbacks": None, "enable_checkpointing": False}
            settings |= {"enable_progress_bar": False}
            return build_trainer(settings)
        settings["default_root_dir"] = str(self.folder)
        settings["logger"] = self._loggers(settings["logger"])
        settings["callbacks"] = self._callbacks(settings)
        return build_trainer(settings)

    def check_fit(self) -> None:
        """Raise ``InputError`` where the model and the data do not fit each other."""
        if isinstance(self.datamodule, InMemoryDataModule):
            check_sizes(self.model, self.datamodule)

    def _choose_folder(self) -> None:
        config, runs_dir = self.config, Path(self.config.runs_dir)
        experiment = experiment_name(self.config_paths[0])
        if config.resume:
            name = config.run_name
            self.resume_from = find_resumable(config.resume, runs_dir, experiment, name)
        if self.resume_from:
            self.folder = self.resume_from.parent.parent
            warn_of_damage(self.resume_from)
            before = yaml.safe_load((self.folder / "config.yaml").read_text())
            run.check_resumable(before, yaml.safe_load(self._dump()))
        elif run.is_rank_zero():
            again = config.resume == "auto"
            self.folder = run.new_folder(runs_dir, experiment, config.run_name, again)
        else:  # never written to; where rank 0 writes is broadcast by the callbacks that need it
            self.folder = runs_dir / experiment

    def _name_loggers(self) -> None:
        """Name a run as its folder with W&B and MLflow, whose own names follow from the seed.

        The files of W&B go into that folder too, unless they are to lie elsewhere.
        """
        assert self.folder is not None
        given = self.config.trainer.logger
        for logger in given if isinstance(given, list) else [given]:
            settings = getattr(logger, "init_args", {})
            for key in ("name", "run_name"):
                if key in settings and settings[key] is None:
                    settings[key] = f"{self.folder.parent.name}/{self.folder.name}"
            if settings and settings.get("save_dir") == ".":
                settings["save_dir"] = str(self.folder)

    def _loggers(self, given: Any) -> list[Logger] | bool:
        if given is False:
            return False
        assert self.folder is not None
        others = given if isinstance(given, list) else [given] if given not in (None, True) else []
        return [run.MetricsCSV(self.folder), run.TensorBoard(self.folder), *others]

    def _callbacks(self, settings: dict[str, Any]) -> list[Callback]:
        assert self.folder is not None
        named: Callbacks = self.config_init.callbacks
        if settings["accumulate_grad_batches"] != 1 and named.gradient_accumulation is not None:
            if named.gradient_accumulation.scheduling != {0: 1}:
                raise InputError(
                    "trainer.accumulate_grad_batches: set beside callbacks.gradient_accumulation. "
                    "Use one of them."
                )
            batches = settings.pop("accumulate_grad_batches")
            named.gradient_accumulation = GradientAccumulation(batches)
        if settings["enable_progress_bar"] is False:
            named.progress = None
        elif named.progress is None and settings["enable_progress_bar"] is None:
            settings["enable_progress_bar"] = False  # not Lightning's own in its place
        settings["enable_checkpointing"] = named.checkpoint is not None
        self.measured, self.plots = named.throughput, named.plots
        if named.early_stopping is not None:
            # MonitorCheck has seen to the name; a run may end before its first validation.
            named.early_stopping.strict = False
        others = settings["callbacks"] or []
        chosen = [getattr(named, f.name) for f in fields(named)]
        return [
            MonitorCheck(),
            run.RunFiles(self.folder, self.dumped),
            GracefulStop(),
            RandomState(),
            *(callback for callback in chosen if callback is not None),
            *(others if isinstance(others, list) else [others]),
        ]

    def _dump(self) -> str:
        """The resolved configuration as YAML, without what names this one run."""
        config: Namespace = self.config.clone()
        config.run_name = config.resume = None
        return str(self.parser.dump(config, skip_none=False))


def read_yaml(text: str) -> Any:
    """Read YAML as the parser does, unless it would grow without end or has a key twice."""
    safe_yaml.check(text)
    return READ_YAML(text)


def check_sizes(model: LightningModule, data: LightningDataModule) -> None:
    """Raise ``InputError`` where a model and data of this project do not have the same sizes."""
    for name in ("num_features", "num_classes", "in_channels", "image_size_px"):
        here, there = model.hparams.get(name), getattr(data, name, None)
        if here is not None and here != there:
            has = f"has {there}. Set it to {there}." if there is not None else "has none."
            raise InputError(f"model.{name}: {here}, but {type(data).__name__} {has}")


def warn_of_damage(chosen: Path) -> None:
    """Say that the last checkpoint of a run was passed over for another."""
    last = chosen.with_name("last.ckpt")
    if last != chosen and last.exists() and run.is_rank_zero() and (found := damage(last)):
        text = f"{last} is damaged ({found}). Going on from {chosen.name}."
        print(f"warning: {text}", file=sys.stderr, flush=True)


class NoProfiler(PassThroughProfiler):
    """Lightning's own for when there is none, which makes a context for each of 40 calls a step."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self._nothing


def build_trainer(settings: Mapping[str, Any]) -> Trainer:
    """Build the trainer; what it refuses is bad input."""
    plugins = settings["plugins"] or []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, WholeCheckpointIO()]
    profiler = settings["profiler"] or NoProfiler()
    chosen = {**settings, "plugins": plugins, "profiler": profiler}
    if chosen["strategy"] == "fsdp":
        from .fsdp import FullySharded  # takes a while, and few need it

        chosen["strategy"] = FullySharded()
    if settings["val_check_interval"] == {}:  # Lightning passes over it, and then misses it
        raise InputError("trainer.val_check_interval: {} is no interval. Give a number or null.")
    try:
        return Trainer(**chosen)
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        raise InputError(f"trainer: {error}") from error


def quiet() -> None:
    """Leave out Lightning's notices about what is not there, and its advice on loaders.

    A loader without worker processes is the fast one here: a batch is one gather from memory.
    """
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", r".*does not have many workers", UserWarning)
    # that is what `--resume` means
    warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty")
    # a large photograph; Pillow refuses what is twice as large
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    # Lightning 2.6 with torch 2.13 and later
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
    warnings.filterwarnings("ignore", r".*is smaller than the logging interval", UserWarning)
    # our models override it so that it does the same, and quicker
    warnings.filterwarnings("ignore", r".*overriding `LightningModule.optimizer_\{")
