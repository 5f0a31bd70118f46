"""The command line: Lightning's own, with this project's names, callbacks and run folders."""

import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, _typehints, _util, get_loader, set_loader
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint as AnyCheckpoint,
    LearningRateFinder,
    ProgressBar,
)
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.model_helpers import is_overridden

from ..callbacks.plots import Plots
from ..callbacks.table import Callbacks, defaults
from ..callbacks.throughput import Throughput
from ..data.in_memory import InMemoryDataModule
from ..errors.bad_input import InputError
from ..errors.checks import warn
from ..project import current
from ..runs import run, safe_yaml  # naming them makes short names known
from ..runs.checkpoints import WholeCheckpointIO
from ..runs.find import damage
from .explain import (
    called_by_own_code,
    construction_error,
    explain_construction,
    explain_parsing,
    explain_unparsed,
    failed_import,
    is_check,
)
from .names import COMMAND_LINE, appended_options, check_finite, resolve_configs
from .resumable import check_resumable

READ_YAML = get_loader("yaml")
Place = tuple[Any, ...]  # in a configuration: names, and numbers in lists


class Parser(LightningArgumentParser):
    """A parser whose complaints are short; jsonargparse makes one more for each class within."""

    owner = COMMAND_LINE
    is_whole = False  # whether it is the parser of all options, and not of a class within

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Write a configuration that can be read back.

        Objects that only code can make, such as the default ``torch.device("cpu")`` of an argument,
        are left out: the class has them by itself. jsonargparse would write a text in their place.
        """
        found = [*find_objects(namespace)] if self.is_whole else []
        kept = namespace.clone()
        if found and len(self._read_back(namespace, found)) < len(found):
            alone = {path: [p for p in found if p != path] for path in found}
            lost = [p for p in found if not self._read_back(without(namespace, alone[p]), [p])]
            kept = without(namespace, lost)
        return str(super().dump(kept, *args, **kwargs))

    def _read_back(self, config: Namespace, places: Sequence[Place]) -> list[Place]:
        """List the places of a configuration whose values are the same when written and read."""
        asked = self.__dict__.pop("print_config", None)  # else reading would print it too
        needed = {"model", *(place[0] for place in places)}  # the others would take a while
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"(?s).*Unable to serialize instance")
                part = without(config, [(name,) for name in vars(config) if name not in needed])
                back = self.parse_string(super().dump(part, skip_none=False))
        except (InputError, ValueError, TypeError, yaml.YAMLError):
            return []
        finally:
            if asked is not None:
                self.print_config = asked
        pairs = {place: (look_up(config, place), look_up(back, place)) for place in places}
        return [p for p, (now, then) in pairs.items() if type(now) is type(then) and now == then]

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        if not (args or kwargs.get("nested_key")):
            self.owner = theclass.__name__
        added: list[str] = super().add_class_arguments(theclass, *args, **kwargs)
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if (failed := failed_import(ex)) is not None:
            raise failed from failed.__cause__  # and not from the parser's report of it
        if message.endswith("arguments are required: model"):
            raise InputError(
                "model: missing. Put an experiment before the overlays, such as "
                f"--config {current().default_config}, or give --model."
            )
        raise InputError(explain_parsing(message, ex, self, self.owner)) from ex


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
        claim: run.Claim | None = None,
        first_callbacks: Callable[["ProjectCLI"], list[Callback]] = lambda cli: [],
    ) -> None:
        self.training = training
        self.claim = claim or run.Claim()
        self.first_callbacks = first_callbacks
        self.folder: Path | None = None
        self.resume_from: Path | None = None
        self.measured: Throughput | None = None
        self.plots: Plots | None = None
        quiet()
        import_short_names()
        set_loader("yaml", read_yaml, (yaml.YAMLError,))  # also of files that a value names
        _typehints.discard_init_args_on_class_path_change = drop_init_args
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
        assert isinstance(parser, Parser)
        parser.is_whole = True
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
            warn_of_damage(self.resume_from)
            before = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
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
        return [run.TensorBoard(self.folder), run.MetricsCSV(self.folder), *others]

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
    name = f"{current().package}.callbacks"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        return Callbacks
    table: type[Callbacks] = getattr(module, "Callbacks", Callbacks)
    return table


def import_short_names() -> None:
    """Import the project's models and data, whose classes then have short names."""
    package = current().package
    for name in (package, f"{package}.models", f"{package}.data"):
        if package and find_spec(name) is not None:
            importlib.import_module(name)
        if package and not (current().folder / "__init__.py").exists():
            break  # a package that is one file


def drop_init_args(parser: Any, before: Any, now: Any) -> None:
    """Drop the arguments of a class where another takes its place.

    In place of jsonargparse's own, which keeps those that the other class could take too: a person
    who chose a model would get settings that were made for another. There is no public way.
    """
    names = [getattr(part, "class_path", None) for part in (before, now)]
    if None in names or "init_args" not in before:
        return
    replaced, chosen = (_util.import_object(str(name)) for name in names)
    if replaced is not chosen:
        del vars(before)["init_args"]


def find_objects(tree: Namespace, path: Place = ()) -> Iterator[Place]:
    """List the places in a configuration of values that YAML has no words for."""
    for key, value in vars(tree).items():
        parts = value if isinstance(value, list) else []
        if isinstance(value, Namespace):
            yield from find_objects(value, (*path, key))
        elif parts and all(isinstance(part, Namespace) for part in parts):
            for number, part in enumerate(parts):
                yield from find_objects(part, (*path, key, number))
        elif not is_plain(value):
            yield (*path, key)


def is_plain(value: Any) -> bool:
    """Tell whether YAML can hold a value as it is; a tuple becomes a list."""
    if isinstance(value, Namespace):
        return not any(find_objects(value))
    if type(value) in (list, tuple, dict):
        return all(map(is_plain, value.values() if isinstance(value, dict) else value))
    return type(value) in (type(None), bool, int, float, str)


def look_up(tree: Any, path: Iterable[Any]) -> Any:
    """Get what is at a place of a configuration."""
    for key in path:
        tree = vars(tree)[key] if isinstance(tree, Namespace) else tree[key]
    return tree


def without(tree: Namespace, places: Iterable[Place]) -> Namespace:
    """Copy a configuration without what is at some places."""
    copy = tree.clone()
    for *path, name in places:
        del vars(look_up(copy, path))[name]
    return copy


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


def read_yaml(text: str) -> Any:
    """Read YAML as the parser does, unless it would grow without end or has a key twice."""
    safe_yaml.check(text)
    return READ_YAML(text)


def check_trainer(
    settings: Mapping[str, Any], named: Callbacks, others: Sequence[Callback]
) -> None:
    """Raise ``InputError`` for an option of the trainer that this project does in another way.

    Args:
        settings: Options of the trainer.
        named: The callbacks of this project.
        others: Those given beside them.
    """
    if settings["default_root_dir"] is not None:
        raise InputError(
            "trainer.default_root_dir: a run writes to a folder of its own. Set --runs_dir instead."
        )
    if settings["barebones"]:
        raise InputError(
            "trainer.barebones: leaves out what a run is for: metrics, checkpoints and progress.\n"
            "Switch off what is not wanted, as in --callbacks.gradient_norms null."
        )
    one = "Use one of them, and set the other to null."
    for name in ("gradient_clip_val", "gradient_clip_algorithm"):
        if settings[name] is not None and getattr(named, "gradient_clipping", None) is not None:
            raise InputError(f"trainer.{name}: set beside callbacks.gradient_clipping. {one}")
    accumulation: Any = getattr(named, "gradient_accumulation", None)
    if settings["accumulate_grad_batches"] != 1 and accumulation is not None:
        is_set = accumulation.effective_batch_size is not None
        if is_set or accumulation.scheduling != {0: 1}:
            raise InputError(
                "trainer.accumulate_grad_batches: set beside callbacks.gradient_accumulation. "
                "Use one of them."
            )
    finders = {BatchSizeFinder: "the batch size", LearningRateFinder: "the learning rate"}
    for callback in others:
        for finder, what in finders.items():
            if isinstance(callback, finder):
                name = type(callback).__name__
                raise InputError(
                    f"trainer.callbacks: {name} changes {what} as the run begins, and config.yaml "
                    "would not say so.\n"
                    f"Find it first, with lightning.pytorch.tuner.Tuner, and set {what} to that."
                )


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
        warn(text)


def follow_torchrun(settings: MutableMapping[str, Any]) -> None:
    """Where ``torchrun`` started this process and no devices are named, use what it started."""
    if "TORCHELASTIC_RUN_ID" in os.environ and settings["devices"] == "auto":
        settings["devices"] = int(os.environ["LOCAL_WORLD_SIZE"])
        settings["num_nodes"] = int(os.environ["WORLD_SIZE"]) // settings["devices"]
        if settings["strategy"] == "auto" and os.environ["WORLD_SIZE"] != "1":
            settings["strategy"] = "ddp"


def build_trainer(settings: Mapping[str, Any]) -> Trainer:
    """Build the trainer; what it refuses is bad input."""
    plugins = settings["plugins"] or []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, WholeCheckpointIO()]
    chosen = {**settings, "plugins": plugins}
    if chosen["strategy"] == "fsdp":
        from ..models.fsdp import FullySharded  # takes a while, and few need it

        chosen["strategy"] = FullySharded()
    if settings["val_check_interval"] == {}:  # Lightning passes over it, and then misses it
        raise InputError("trainer.val_check_interval: {} is no interval. Give a number or null.")
    try:
        return Trainer(**chosen)
    except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
        is_refused = isinstance(error, ImportError) or is_check(error.__traceback__)
        if called_by_own_code(error.__traceback__) or not is_refused:
            raise
        raise InputError(f"trainer: {error}") from error


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
    # that is what `--resume` means
    warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty")
    # a large photograph; Pillow refuses what is twice as large
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    # Lightning 2.6 with torch 2.13 and later
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
    warnings.filterwarnings("ignore", r".*is smaller than the logging interval", UserWarning)
    # `ExactResume` goes on with any loader, and says where it cannot
    warnings.filterwarnings("ignore", r"You're resuming from a checkpoint that ended before the")
    # our models override it so that it does the same, and quicker
    warnings.filterwarnings("ignore", r".*overriding `LightningModule.optimizer_\{")
