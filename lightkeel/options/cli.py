"""The command line: Lightning's own, with this project's names, callbacks and run folders."""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as AnyCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.model_helpers import is_overridden

from ..callbacks.plots import Plots
from ..callbacks.table import Callbacks, defaults
from ..callbacks.throughput import Throughput
from ..data.in_memory import InMemoryDataModule
from ..errors.bad_input import InputError
from ..errors.checks import warn
from ..errors.explain import explain_construction
from ..project import current
from ..runs.find import damage
from ..runs.folder import Claim, is_rank_zero
from ..runs.loggers import MetricsCSV, TensorBoard  # naming it makes short names known
from . import cache
from .configs import appended_options, read_yaml, resolve_configs
from .explain_parser import construction_error, explain_unparsed
from .names import to_learn
from .parser import Parser, check_finite, learn, use_own_yaml
from .resumable import check_resumable
from .trainer import build_trainer, check_trainer, follow_torchrun


class ProjectCLI(LightningCLI):
    """Everything a command needs, built from its arguments: model, data, trainer, run folder.

    Args:
        args: Command line, without the name of the program.
        training: Whether to write a run; without, the trainer has neither loggers nor callbacks.
        claim: What keeps the folder of the run.
        first_callbacks: Makes the callbacks that come before the named ones.
    """

    def __init__(
        self,
        args: Sequence[str],
        training: bool = True,
        claim: Claim | None = None,
        first_callbacks: Callable[["ProjectCLI"], list[Callback]] = lambda cli: [],
    ) -> None:
        self.training = training
        self.claim = claim or Claim()
        self.first_callbacks = first_callbacks
        self.folder: Path | None = None
        self.resume_from: Path | None = None
        self.measured: Throughput | None = None
        self.plots: Plots | None = None
        quiet()
        if current().package:
            importlib.import_module(current().package)
        import_part("models")
        import_part("data")
        use_own_yaml()
        self.arguments, self.experiment = resolve_configs(list(args))
        super().__init__(
            LightningModule,
            save_config_callback=None,
            trainer_defaults={"enable_model_summary": False},
            seed_everything_default=0,
            parser_kwargs={"allow_abbrev": False},
            parser_class=Parser,
            subclass_mode_model=True,
            args=self.arguments,
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
            help="Resume a run: its folder, a .ckpt file, `last`, or `auto`: the newest "
            "unfinished run of the experiment if there is one (of this run_name, where given), "
            "else a new run.",
        )
        table = find_table()
        parser.add_argument("--callbacks", type=table, help="Named callbacks, null: off.")
        parser.set_defaults(
            {
                f"callbacks.{name}": {"class_path": f"{cls.__module__}.{cls.__qualname__}"}
                for name, cls in defaults(table).items()
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)
        assert isinstance(parser, Parser)
        if to_learn:
            to_learn.clear()
            cache.write(learn(parser, find_table()))
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
        seed = self.config.seed_everything
        if seed is None or seed is False:
            given = "null" if seed is None else "false"
            raise InputError(f"seed_everything: {given}, but every run is seeded. Give a number.")
        if seed is not True and not 0 <= seed < 2**32:
            raise InputError(f"seed_everything: {seed} is not in [0, 2**32).")

    def before_instantiate_classes(self) -> None:
        if self.training:
            self._choose_folder()
            self.dumped = self._dump()  # without the name that loggers are given
            self._name_loggers()

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, FileNotFoundError, MisconfigurationException) as report:
            error = construction_error(report)
            message = explain_construction(error)  # refused by a constructor, ours or not
            if message is None:
                raise error from error.__cause__
            raise InputError(message) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        settings: dict[str, Any] = {**self.config_init.trainer, **kwargs}
        follow_torchrun(settings)
        if not self.training:
            settings |= {"logger": False, "callbacks": None, "enable_checkpointing": False}
            settings |= {"enable_progress_bar": False}
            return build_trainer(settings)
        settings["callbacks"] = self._callbacks(settings)
        settings["logger"] = self._loggers(settings["logger"])
        settings["default_root_dir"] = str(self.folder)
        return build_trainer(settings)

    def check_fit(self) -> None:
        """Raise ``InputError`` where the model and the data do not fit each other."""
        has_loader = is_overridden("train_dataloader", self.model, LightningModule)
        if self.training and self.datamodule is None and not has_loader:
            raise InputError(
                f"data: missing, and {type(self.model).__name__} has no train_dataloader. "
                f"Give --data, or a --config such as {current().default_config}, whose data to use."
            )
        if isinstance(self.datamodule, InMemoryDataModule):
            check_sizes(self.model, self.datamodule)

    def _choose_folder(self) -> None:
        config = self.config
        choice = (Path(config.runs_dir), self.experiment, config.run_name, config.resume)
        self.resume_from = self.claim.choose(*choice)
        self.folder = self.claim.folder
        if self.folder is not None and self.resume_from:
            last = self.resume_from.with_name("last.ckpt")
            is_other = last != self.resume_from and last.exists() and is_rank_zero()
            if is_other and (found := damage(last)):
                warn(f"{last} is damaged ({found}). Resuming from {self.resume_from.name}.")
            before = read_yaml(self.folder / "config.yaml")
            drop_repeated(config, before, appended_options(self.arguments))
            check_resumable(before, yaml.safe_load(self._dump()))

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
        # The first is a module's `self.logger`, whose `experiment` people add images and text to.
        return [TensorBoard(self.folder), MetricsCSV(self.folder), *others]

    def _callbacks(self, settings: dict[str, Any]) -> list[Callback]:
        assert self.folder is not None
        named: Callbacks = self.config_init.callbacks
        given = settings["callbacks"] or []
        others: list[Callback] = given if isinstance(given, list) else [given]
        check_trainer(settings, named, others)
        accumulation: Any = getattr(named, "gradient_accumulation", None)
        if settings["accumulate_grad_batches"] != 1 and accumulation is not None:
            batches = settings.pop("accumulate_grad_batches")
            named.gradient_accumulation = type(accumulation)(batches)  # type: ignore[attr-defined]
        # A progress bar or checkpoints of a person's choice are not beside ours, nor Lightning's
        # own in the place of ours where those are switched off and nothing is said of Lightning's.
        has_bar = any(isinstance(callback, ProgressBar) for callback in others)
        if settings["enable_progress_bar"] is False or has_bar:
            named.progress = None
        elif named.progress is None and settings["enable_progress_bar"] is None:
            settings["enable_progress_bar"] = False
        has_checkpoint = any(isinstance(callback, AnyCheckpoint) for callback in others)
        if settings["enable_checkpointing"] is False:
            named.checkpoint = None
        elif named.checkpoint is None and settings["enable_checkpointing"] is None:
            settings["enable_checkpointing"] = has_checkpoint
        self.measured, self.plots = named.throughput, named.plots
        if named.early_stopping is not None:
            # MonitorCheck has seen to the name; a run may end before its first validation.
            named.early_stopping.strict = False
        chosen = [getattr(named, f.name) for f in fields(named)]
        named_callbacks = [callback for callback in chosen if callback is not None]
        return [*self.first_callbacks(self), *named_callbacks, *others]

    def _dump(self) -> str:
        """The resolved configuration as YAML, without what names this one run."""
        config: Namespace = self.config.clone()
        config.run_name = config.resume = None
        return str(self.parser.dump(config, skip_none=False))


def find_table() -> type[Callbacks]:
    """Find the table of named callbacks: the project's own, or the library's."""
    table: type[Callbacks] = getattr(import_part("callbacks"), "Callbacks", Callbacks)
    return table


def import_part(part: str) -> ModuleType | None:
    """Import a part of the project's package, whose classes then have short names; None: none."""
    folder, package = current().folder, current().package
    is_there = (folder / f"{part}.py").is_file() or (folder / part / "__init__.py").is_file()
    return importlib.import_module(f"{package}.{part}") if package and is_there else None


def drop_repeated(config: Namespace, before: Mapping[str, Any], options: Iterable[str]) -> None:
    """Drop from lists what a resumed run holds already: its command appends it once more.

    Args:
        config: The configuration to resume with.
        before: That of the run.
        options: Which of it was appended to.
    """
    for option in options:
        now: Any = config
        then: Any = before
        *names, last = option.split(".")
        for name in names:
            now, then = ((part or {}).get(name) for part in (now, then))
            now, then = ((part or {}).get("init_args", part) for part in (now, then))
        held = (then or {}).get(last)
        number = len(held) if isinstance(held, list) else int(held is not None)
        if now and isinstance(parts := now.get(last), list):
            kept = parts[:number]
            now[last] = kept + [part for part in parts[number:] if part not in kept]


def check_sizes(model: LightningModule, data: LightningDataModule) -> None:
    """Raise ``InputError`` where a model and data of this project do not have the same sizes."""
    for name in ("num_features", "num_classes", "in_channels", "image_size_px"):
        here, there = model.hparams.get(name), getattr(data, name, None)
        if here is not None and here != there:
            has = f"has {there}. Set it to {there}." if there is not None else "has none."
            raise InputError(f"model.{name}: {here}, but {type(data).__name__} {has}")


def quiet() -> None:
    """Leave out Lightning's notices about what is not there, and its advice on loaders.

    A loader without worker processes is the fast one here: a batch is one gather from memory.
    """
    for name in (
        *("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"),
        "lightning.pytorch.accelerators.cuda",  # which GPU a process has
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    # that is what `--trainer.accelerator cpu` means, and what predictions need for their data
    warnings.filterwarnings("ignore", r"\w+ available but not used", UserWarning)
    warnings.filterwarnings("ignore", r".*does not have many workers", UserWarning)
    # such as the default device of an argument, which the class has by itself
    warnings.filterwarnings("ignore", r"\s*Unable to serialize instance")
    # that is what `--resume` means
    warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty")
    # a large photograph; Pillow refuses what is twice as large
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    # Lightning 2.6 with torch 2.13 and later
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
    warnings.filterwarnings("ignore", r".*is smaller than the logging interval", UserWarning)
    # `ExactResume` goes on with any loader, and says where it cannot
    warnings.filterwarnings("ignore", r"You're resuming from a checkpoint that ended before the")
