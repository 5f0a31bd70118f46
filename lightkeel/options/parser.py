"""The parser of all options: Lightning's own, with short complaints and a dump to read back."""

import inspect
import math
import pkgutil
import sys
from contextlib import suppress
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, _typehints, get_loader, set_dumper, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from ..callbacks.table import Callbacks, classes
from ..errors.bad_input import InputError
from ..project import LIBRARY, current
from ..runs import safe_yaml
from . import moved
from .cache import Class, Known
from .explain_parser import BASES, explain_parsing, failed_import, listed
from .names import COMMAND_LINE

READ_YAML = get_loader("yaml")
# Options that may be infinite, of clipping, early stopping and progress: it means without a limit.
LIMITS = {
    *("max_norm", "max_value", "gradient_clip_val", "interval_s"),
    *("stopping_threshold", "divergence_threshold"),
}
NO_WORDS = "Unable to serialize instance"  # with what jsonargparse writes for an object


class Parser(LightningArgumentParser):
    """A parser whose complaints are short; jsonargparse makes one more for each class within."""

    owner = COMMAND_LINE

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> list[str]:
        if not (args or kwargs.get("nested_key")):
            self.owner = theclass.__name__
        return list(super().add_class_arguments(theclass, *args, **kwargs))

    def option_names(self) -> list[str]:
        """List the dotted names of all options."""
        names = {str(action.dest).removesuffix("+") for action in self._actions}
        return sorted(n for n in names if n.split(".")[-1] not in ("help", "print_shtab"))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if (failed := failed_import(ex)) is not None:
            raise failed from failed.__cause__  # and not from the parser's report of it
        if message.endswith("arguments are required: model"):
            how = "Give --config or"
            if default := current().default_config:
                how = f"Put an experiment before the overlays, such as --config {default}, or give"
            raise InputError(f"model: missing. {how} --model.")
        raise InputError(explain_parsing(message, ex, self.option_names(), self.owner)) from ex


def use_own_yaml() -> None:
    """Have the parser read and write YAML, and change classes, as this module does."""
    set_loader("yaml", read_yaml, (yaml.YAMLError,))  # also of files that a value names
    set_dumper("yaml", write_yaml)
    # There is no public way to have the arguments of a class dropped with it.
    _typehints.discard_init_args_on_class_path_change = drop_init_args


def drop_init_args(parser: Any, before: Any, now: Any) -> None:
    """Drop the arguments of a class where another takes its place.

    In place of jsonargparse's own, which keeps those that the other class could take too: a person
    who chose a model would get settings that were made for another.
    """
    names = [getattr(part, "class_path", None) for part in (before, now)]
    if None not in names and "init_args" in before:
        replaced, chosen = (pkgutil.resolve_name(str(name)) for name in names)
        if replaced is not chosen:
            del vars(before)["init_args"]


def read_yaml(text: str) -> Any:
    """Read YAML as the parser does, unless it would grow without end or has a key twice."""
    safe_yaml.check(text)
    return moved.mend(READ_YAML(text))


def write_yaml(content: Any) -> str:
    """Write a configuration to be read back, without objects that only code can make.

    Such as the default ``torch.device("cpu")`` of an argument: the class has them by itself.
    """
    return yaml.safe_dump(_with_words(content), sort_keys=False, allow_unicode=True)


def _with_words(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _with_words(value) for key, value in tree.items() if not _has_none(value)}
    return [*map(_with_words, tree)] if isinstance(tree, list) else tree


def _has_none(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_has_none, value))
    is_text = isinstance(value, str) and value.startswith(NO_WORDS)
    return is_text or type(value) not in yaml.SafeDumper.yaml_representers


def learn(parser: Parser, table: type[Callbacks]) -> Known:
    """Collect the names of all options, and what each class of the project is made with."""
    fields = classes(table)
    kinds = {owner: _subclasses(base) for owner, base in BASES.items()}
    found: dict[int, Class] = {}
    for cls in {*fields.values(), *kinds["model"], *kinds["data"]}:
        with suppress(Exception):  # one that cannot be asked is left to the parser
            names = ArgumentParser().add_class_arguments(cls, fail_untyped=False)
            found[id(cls)] = cls.__name__, sorted({str(name).split(".")[0] for name in names})
    known: dict[str, Class | None] = dict.fromkeys(f"{owner}:" for owner in BASES)
    known |= {f"callbacks.{name}:": found.get(id(cls)) for name, cls in fields.items()}
    for owner, some in kinds.items():
        known |= {f"{owner}:{cls.__name__}": found.get(id(cls)) for cls in some}
    for name, module in [*sys.modules.items()]:
        if f"{name}.".startswith((f"{current().package}.", f"{LIBRARY.name}.")):
            parts = {f"{name}.{key}": id(value) for key, value in vars(module).items()}
            known |= {path: found[part] for path, part in parts.items() if part in found}
    return Known(parser.option_names(), known, {owner: listed(owner) for owner in BASES})


def _subclasses(cls: type[Any]) -> list[type[Any]]:
    return [cls, *(found for part in cls.__subclasses__() for found in _subclasses(part))]


def check_finite(settings: Any, name: str = "") -> None:
    """Raise ``InputError`` for a setting that is NaN, or infinite and no limit or default."""
    if isinstance(settings, dict):
        defaults = _defaults(str(settings.get("class_path")))
        arguments = settings.get("init_args") or {}
        given = {k: v for k, v in arguments.items() if repr(v) != repr(defaults.get(k))}
        for key, value in ({**settings, "init_args": None} | given).items():
            check_finite(value, f"{name}.{key}".lstrip("."))
    elif isinstance(settings, (list, tuple)):
        for number, value in enumerate(settings):
            check_finite(value, f"{name}[{number}]")
    elif isinstance(settings, float):
        is_limit = name.rpartition(".")[2] in LIMITS and not math.isnan(settings)
        if not (math.isfinite(settings) or is_limit):
            raise InputError(f"{name}: {settings} is no finite number. Give one that is.")


def _defaults(path: str) -> dict[str, Any]:
    """Return the defaults of a class that the parser has imported, and of those it derives from."""
    module, _, name = path.rpartition(".")
    made = getattr(sys.modules.get(module), name, None)
    found: dict[str, Any] = {}
    for part in reversed(inspect.getmro(made)) if inspect.isclass(made) else [made]:
        if callable(part) and part is not object:
            with suppress(ValueError, TypeError):  # a class written in C may have no signature
                found |= {p.name: p.default for p in inspect.signature(part).parameters.values()}
    return found
