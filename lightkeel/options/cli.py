"""The command line: Lightning's own, with this project's names, callbacks and run folders."""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
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
from ..runs.output import write_out
from . import cache
from .configs import appended_options, read_yaml, resolve_configs
from .names import check_names, name_classes, to_learn
from .overview import choices
from .parser import (
    Parser,
    check_finite,
    construction_error,
    explain_unparsed,
    learn,
    use_own_yaml,
)
from .resumable import check_resumable
from .trainer import as_list, build_trainer, follow_torchrun, settle_callbacks

# A loader without worker processes is the fast one here: a batch is one gather from memory.
NEEDLESS_WARNINGS = (
    r"\w+ available but not used",  # `--trainer.accelerator cpu`; predictions need it for data
    r".*does not have many workers",
    r"\s*Unable to serialize instance",  # a default such as a device, which the class has by itself
    r"Checkpoint directory .* exists and is not empty",  # `--resume`
    r"Image size \(\d+ pixels\) exceeds limit",  # Pillow refuses what is twice as large
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.13 and later
    r".*is smaller than the logging interval",
    r"You're resuming from a checkpoint that ended before the",  # `ExactResume` can, or says so
)
NEEDLESS_NOTICES = (
    *("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"),
    "lightning.pytorch.accelerators.cuda",  # which GPU a process has
)


class ProjectCLI(LightningCLI):
    """Everything a command needs, built from its arguments: model, data, trainer, run folder.

    Without ``training`` no run is written, and the trainer has neither loggers nor callbacks.
    """

    def __init__(
        self,
        args: Sequence[str],
        training: bool = True,
        claim: Claim | None = None,
        first_callbacks: Callable[["ProjectCLI"], list[Callback]] = lambda cli: [],
    ) -> None:
        self.training, self.claim = training, claim or Claim()
        self.first_callbacks = first_callbacks  # come before the named ones
        self.folder: Path | None = None
        self.resume_from: Path | None = None
        self.measured: Throughput | None = None
        self.plots: Plots | None = None
        for name in NEEDLESS_NOTICES:
            logging.getLogger(name).setLevel(logging.WARNING)
        for pattern in NEEDLESS_WARNINGS:
            warnings.filterwarnings("ignore", pattern)
        for part in ("", "models", "data"):
            import_part(part)
        use_own_yaml()
        given, self.experiment = resolve_configs(list(args))
        self.arguments = name_classes(given)
        super().__init__(
            LightningModule,
            save_config_callback=None,
            trainer_defaults={"enable_model_summary": False},
            seed_everything_default=0,
            parser_kwargs={
                "allow_abbrev": False,
                "prog": current().command("train"),
                "description": "All options of a run. The last setting of an option wins.",
            },
            parser_class=Parser,
            subclass_mode_model=True,
            args=self.arguments,
            run=False,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--runs_dir", default="runs", help="Folder of all runs.")
        parser.add_argument("--run_name", type=str | None, help="Name of this run's folder.")
        about = (
            "Resume a run: its folder, a .ckpt file, `last`, or `auto`: the newest unfinished run "
            "of the experiment if there is one (of this run_name, where given), else a new run."
        )
        parser.add_argument("--resume", type=str | None, help=about)
        # The project's own table of callbacks, or the library's.
        self.table = getattr(import_part("callbacks"), "Callbacks", Callbacks)
        parser.add_argument("--callbacks", type=self.table, help="Named callbacks, null: off.")
        for name, cls in defaults(self.table).items():
            path = f"{cls.__module__}.{cls.__qualname__}"
            parser.set_defaults({f"callbacks.{name}": {"class_path": path}})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        assert isinstance(args, list)
        assert isinstance(parser, Parser)
        known = learn(parser, self.table) if to_learn else None
        if known:
            to_learn.clear()
            cache.write(known)
        if "--list" in args:
            write_out(choices(known or learn(parser, self.table)))
            parser.exit()
        try:
            self.config = parser.parse_args(args)
        except Exception as error:
            if isinstance(error, InputError):  # said as where names are known beforehand
                check_names(args, known or learn(parser, self.table))
            message = None if isinstance(error, InputError) else explain_unparsed(error)
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
            off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
            return build_trainer({**settings, "callbacks": None, **off})
        settings["callbacks"] = self._callbacks(settings)
        settings["default_root_dir"] = str(self.folder)
        if (given := settings["logger"]) is not False:
            assert self.folder is not None
            # The first is a module's `self.logger`, whose `experiment` people write images to.
            others = [] if given is True else as_list(given)
            settings["logger"] = [TensorBoard(self.folder), MetricsCSV(self.folder), *others]
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
            hparams = self.model.hparams
            for name in ("num_features", "num_classes", "in_channels", "image_size_px"):
                here, there = hparams.get(name), getattr(self.datamodule, name, None)
                is_left_open = here is None and (name != "num_classes" or name not in hparams)
                if here != there and not is_left_open:
                    has = f"has {there}. Set it to {there}." if there is not None else "has none."
                    whose = type(self.datamodule).__name__
                    given = "null" if here is None else here
                    raise InputError(f"model.{name}: {given}, but {whose} {has}")
            return
        # Of a detector, the background is a class more; some data knows its own in one process.
        here = self.model.hparams.get("num_classes")
        there = len(getattr(self.datamodule, "class_names", None) or ())
        if isinstance(here, int) and there and here != there:
            text = f"model.num_classes: {here}, but {type(self.datamodule).__name__} has {there}."
            if here < there:
                raise InputError(f"{text} Set it to {there}.")
            if self.training and is_rank_zero():
                why = "predict and export name each class (of a detector, one is the background)"
                warn(f"{text} Set it to {there}: {why}.")

    def _choose_folder(self) -> None:
        config = self.config
        whose = Path(config.runs_dir), self.experiment
        self.resume_from = self.claim.choose(*whose, config.run_name, config.resume)
        self.folder = self.claim.folder
        if self.folder is not None and self.resume_from:
            last = self.resume_from.with_name("last.ckpt")
            is_other = last != self.resume_from and last.exists() and is_rank_zero()
            if is_other and (found := damage(last)):
                warn(f"{last} is damaged ({found}). Resuming from {self.resume_from.name}.")
            file = self.folder / "config.yaml"
            before, written = read_yaml(file), yaml.safe_load(file.read_text(encoding="utf-8"))
            had = {name for name, value in written["callbacks"].items() if value is not None}
            for name in sorted(had - before["callbacks"].keys()) if is_rank_zero() else []:
                warn(f"callbacks.{name}: is gone. The run ends otherwise than it would.")
            drop_repeated(config, before, appended_options(self.arguments))
            given = [value for option, value in pairwise(self.arguments) if option == "--config"]
            beside = {path: read_yaml(Path(path)) for path in given[1:]}  # the first is the run's
            check_resumable(before, yaml.safe_load(self._dump()), beside)

    def _name_loggers(self) -> None:
        """Name a run as its folder with W&B and MLflow, and have W&B write there by default."""
        assert self.folder is not None
        name = f"{self.folder.parent.name}/{self.folder.name}"
        places = ("name", None, name), ("run_name", None, name), ("save_dir", ".", str(self.folder))
        for logger in as_list(self.config.trainer.logger):
            settings = getattr(logger, "init_args", {})
            for key, default, chosen in places:
                if settings.get(key, "") == default:
                    settings[key] = chosen

    def _callbacks(self, settings: dict[str, Any]) -> list[Callback]:
        named: Callbacks = self.config_init.callbacks
        others: list[Callback] = as_list(settings["callbacks"])
        settle_callbacks(settings, named, others)
        self.measured, self.plots = named.throughput, named.plots
        if named.early_stopping is not None:
            # MonitorCheck has seen to the name; a run may end before its first validation.
            named.early_stopping.strict = False
        chosen = [getattr(named, part.name) for part in fields(named)]
        return [*self.first_callbacks(self), *(c for c in chosen if c is not None), *others]

    def _dump(self) -> str:
        """The resolved configuration as YAML, without what names this one run."""
        config: Namespace = self.config.clone()
        config.run_name = config.resume = None
        return str(self.parser.dump(config, skip_none=False))


def import_part(part: str) -> ModuleType | None:
    """Import a part of the project's package, whose classes then have short names; None: none."""
    folder, package = current().folder, current().package
    files = folder / f"{part}.py", folder / part / "__init__.py"
    is_there = package and (not part or any(file.is_file() for file in files))
    return importlib.import_module(f"{package}.{part}".rstrip(".")) if is_there else None


def drop_repeated(config: Any, before: Any, options: Iterable[str]) -> None:
    """Drop what a resumed run holds already from lists to which its command appends once more."""
    for option in options:
        now, then = config, before
        *names, last = option.split(".")
        for name in names:
            now, then = ((part or {}).get(name) for part in (now, then))
            now, then = ((part or {}).get("init_args", part) for part in (now, then))
        held = (then or {}).get(last)
        if now and isinstance(parts := now.get(last), list):
            kept = parts[: len(as_list(held))]
            now[last] = kept + [part for part in parts[len(kept) :] if part not in kept]
