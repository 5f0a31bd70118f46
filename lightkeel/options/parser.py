"""The parser of all options: Lightning's own, with short complaints and a dump to read back."""

import inspect
import math
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import ArgumentParser, _typehints, get_loader, set_dumper, set_loader
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from ..callbacks.table import Callbacks, classes
from ..errors.bad_input import InputError
from ..errors.checks import suggest
from ..errors.explain import fails_on_import, first_line, frames, raised_in
from ..project import current
from ..runs import safe_yaml
from . import moved
from .cache import Class, Known
from .guesses import OTHER_TOOLS, WORDS, plain
from .names import COMMAND_LINE, unknown_class

PARSERS = [Path(str(package.__file__)).parent for package in (jsonargparse, yaml)]
BASES = {"model": LightningModule, "data": LightningDataModule}
UNKNOWN = (
    r"unrecognized arguments: (\S+)|Option '([^']+)' is not accepted"
    r"|Group '([^']+)' does not accept option '([^']+)'"
)
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

    def helps(self) -> dict[str, str | None]:
        """Return what is said of each option."""
        return {str(action.dest): action.help for action in self._actions}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if (failed := next(filter(fails_on_import, origins(ex)), None)) is not None:
            raise failed from failed.__cause__  # of its own, and not from the parser's report
        if message.endswith("arguments are required: model"):
            how = "Give --config or"
            if default := current().default_config:
                how = f"Put an experiment before the overlays, such as --config {default}, or give"
            raise InputError(f"model: missing. {how} --model.")
        raise InputError(self._explain(message, ex)) from ex

    def _explain(self, text: str, error: BaseException | None) -> str:
        """Reduce a nested report to its innermost finding, which a parser within may have made."""
        found = re.search(r'Parser key "([^"]+)"', text)
        key = found[1] if found else ""
        while error is not None:
            if isinstance(error, InputError):
                return f"{key}.{error}"
            error = error.__cause__
        if found := re.search(UNKNOWN, text):
            name = found[1] or ".".join(part for part in found.groups()[1:] if part)
            name, names = name.lstrip("-").partition("=")[0], self.option_names()
            hint = suggest(name, names) if names else "Available: none."
            return f"{name}: {self.owner} has no such option. {hint}"
        if found := re.search(r"arguments are required: ([^\n]+)", text):
            return f"{found[1]}: {self.owner} needs it. Give it a value."
        if found := re.search(r"Expected a dot import path string: (\S+)", text):
            return unknown_class(key or self.owner, found[1], listed(key))
        if found := re.search(r"(No module named [^\n]+|module \S+ has no attribute [^\n]+)", text):
            return f"{key}: cannot import it: {found[1].rstrip('.')}.{_meant(found[1])}"
        if found := re.search(
            r"Expected '(\S+)' to be a function that returns (?:<class ')?(\w+)", text
        ):
            return f"{key}: `{found[1]}` is no {found[2]}, nor a function annotated to return one."
        if found := re.search(r"Import path .*does not correspond to a subclass of (\w+)", text):
            return f"{key}: `{_given(text)}` is no {found[1]}."
        if "Expected a" in text:
            return _wrong_type(text, key)
        return f"{key}: {first_line(text)}" if key else first_line(text)


def use_own_yaml() -> None:
    """Have the parser read and write YAML, and change classes, as this module does."""
    set_loader("yaml", read_yaml, (yaml.YAMLError,))  # also of files that a value names
    set_dumper("yaml", write_yaml)
    # No public way has arguments dropped that another class could take too.
    _typehints.discard_init_args_on_class_path_change = drop_init_args


def drop_init_args(parser: Any, before: Any, now: Any) -> None:
    """Drop the arguments of a class where another takes its place, for which they were not made."""
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
    """Write a configuration to be read back, without defaults that only code can make."""
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
    bases: dict[str, type[Any]] = {
        **BASES,
        **{f"callbacks.{name}": cls for name, cls in fields.items()},
    }
    kinds = {owner: _subclasses(base) for owner, base in bases.items()}
    found: dict[type, Class] = {}
    for cls in {cls for some in kinds.values() for cls in some}:
        with suppress(Exception):  # one that cannot be asked is left to the parser
            names = ArgumentParser().add_class_arguments(cls, fail_untyped=False)
            found[cls] = cls.__name__, sorted({str(name).split(".")[0] for name in names})
    known: dict[str, Class | None] = dict.fromkeys(f"{owner}:" for owner in BASES)
    known |= {f"callbacks.{name}:": found.get(cls) for name, cls in fields.items()}
    for owner, some in kinds.items():
        known |= {f"{owner}:{cls.__name__}": found.get(cls) for cls in some}
    known |= {f"{cls.__module__}.{cls.__qualname__}": made for cls, made in found.items()}
    about = {o: {n: _about(cls) for n, cls in listed(o).items()} for o in BASES}
    helps = parser.helps()
    for name, cls in fields.items():
        about[f"callbacks.{name}"] = {cls.__name__: helps[f"callbacks.{name}"] or _about(cls)}
    return Known(parser.option_names(), known, about)


def _about(cls: type) -> str:
    """Return the first line of a class's documentation."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0].replace("``", "`")


def _subclasses(cls: type[Any]) -> list[type[Any]]:
    return [cls, *(found for part in cls.__subclasses__() for found in _subclasses(part))]


def check_finite(settings: Any, name: str = "") -> None:
    """Raise ``InputError`` for a setting that is NaN, infinite and no limit, or null and a number.

    jsonargparse takes null for any argument that has a default.
    """
    if isinstance(settings, dict):
        known = _parameters(str(settings.get("class_path")))
        arguments = settings.get("init_args")
        arguments = arguments if isinstance(arguments, dict) else {}
        defaults = {key: repr(parameter.default) for key, parameter in known.items()}
        given = {k: v for k, v in arguments.items() if repr(v) != defaults.get(k)}
        for key, value in given.items():
            if value is None and key in known and (refused := refused_null(known[key])):
                raise InputError(f"{name}.{key}: {refused}")
        for key, value in ({**settings, "init_args": None} | given).items():
            check_finite(value, f"{name}.{key}".lstrip("."))
    elif isinstance(settings, (list, tuple)):
        for number, value in enumerate(settings):
            check_finite(value, f"{name}[{number}]")
    elif isinstance(settings, float):
        is_limit = name.rpartition(".")[2] in LIMITS and not math.isnan(settings)
        if not (math.isfinite(settings) or is_limit):
            raise InputError(f"{name}: {settings} is no finite number. Give one that is.")


def refused_null(parameter: inspect.Parameter) -> str:
    """Say why null is none of the numbers or choices that an argument takes; empty: it may be."""
    kind = "" if parameter.annotation is parameter.empty else str(parameter.annotation)
    if re.search("^$|None|Optional|Any", kind):
        return ""
    if choices := _choices(kind):
        return f"`null` is not a choice. {suggest('', choices)}"
    return "null. Give a number." if type(parameter.default) in (int, float) else ""


def _parameters(path: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class that the parser has imported, and of its bases."""
    module, _, name = path.rpartition(".")
    made: Any = getattr(sys.modules.get(module), name, None)
    found: dict[str, inspect.Parameter] = {}
    for part in reversed(made.__mro__[:-1]) if inspect.isclass(made) else [made]:
        with suppress(ValueError, TypeError):  # None has no signature, nor have some written in C
            found |= inspect.signature(part).parameters
    return found


def origins(report: BaseException | None) -> Iterator[BaseException]:
    """List the exceptions that a parser's report was made from, that itself first."""
    found, seen = [report], set[int]()
    while found:
        error = found.pop(0)
        if isinstance(error, BaseException) and id(error) not in seen:
            seen.add(id(error))
            yield error
            # Of the alternatives of a type, one is the cause, and the others are in a list.
            values = (v for f in frames(error.__traceback__) for v in f.f_locals.values())
            found += [error.__cause__, *(v for s in values if isinstance(s, list) for v in s)]


def construction_error(report: Exception) -> BaseException:
    """Find what a constructor has raised in the report that a parser has made of it."""
    raised = (e for e in origins(report) if not raised_in(e.__traceback__, PARSERS[0]))
    return next(raised, report)


def listed(owner: str) -> dict[str, type]:
    """Return the classes that the project has short names for, of its models or its data."""
    package, base = current().package, BASES.get(owner)
    modules = [sys.modules.get(name) for name in (package, f"{package}.models", f"{package}.data")]
    named = {name: value for module in modules if module for name, value in vars(module).items()}
    kinds = {name: value for name, value in named.items() if isinstance(value, type)}
    names = sorted(n for n, c in kinds.items() if base and c != base and issubclass(c, base))
    return {name: kinds[name] for name in names}


def explain_unparsed(error: Exception) -> str | None:
    """Say at which option a parser has failed itself; None where another's code has."""
    trace, is_content = error.__traceback__, isinstance(error, safe_yaml.ContentError)
    if fails_on_import(error) or not (is_content or raised_in(trace, *PARSERS)):
        return None
    options = [frame.f_locals.get("option_string") for frame in frames(trace)]
    option = next((str(option).lstrip("-") for option in reversed(options) if option), "options")
    problem = str(error) if is_content else f"{type(error).__name__}: {error}"
    return f"{option}: cannot be read ({first_line(problem)})."


def _wrong_type(text: str, key: str) -> str:
    wanted = re.findall(r"Expected (?:a|an) (.+?)(?:\. Got value: .*)?$", text, re.M)
    names = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", name) for name in wanted]
    names = ["list" if name == "Sequence" else name for name in names]
    kinds = dict.fromkeys(name for name in names if name != "NoneType") or ["options"]
    given = _given(text)
    option, _, meant = WORDS.get(plain(given), "").partition(" ")
    if literals := [choice for kind in kinds for choice in _choices(kind)]:
        hint = f"Did you mean `{meant}`?" if option == key and meant else suggest(given, literals)
        return f"{key}: `{given}` is not a choice. {hint}"
    wish = " or ".join([*kinds, *(["null"] if "NoneType" in names else [])])
    named = next((t for t in OTHER_TOOLS if f".{t}".endswith(f".{key}.name")), "")
    hint = f"\nDid you mean `--{named} {given}`?" if named and given.isidentifier() else ""
    return f"{key}: `{given}` has the wrong type. Give {wish}.{hint}"


def _choices(kind: str) -> list[str]:
    return re.findall(r"['\"]([^'\"]*)['\"]", kind) if "Literal[" in kind else []


def _meant(text: str) -> str:
    """Ask for the name that is nearest in a module that has been imported."""
    found = re.match(r"module '(\S+)' has no attribute '(\S+)'", text)
    hint = suggest(found[2], dir(sys.modules.get(found[1]))) if found else ""
    return f" {hint}" if hint.startswith("Did you mean") else ""


def _given(text: str) -> str:
    found = re.search(r"(?:Got|Given) value: (.*)", text)
    return found[1] if found else "it"
