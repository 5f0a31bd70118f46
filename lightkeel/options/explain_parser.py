"""Turn the parser's nested reports into a few lines, with the nearest right name."""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import jsonargparse
import yaml
from lightning.pytorch import LightningDataModule, LightningModule

from ..errors.bad_input import InputError
from ..errors.checks import suggest
from ..errors.explain import fails_on_import, first_line, frames, raised_in
from ..project import current
from ..runs.safe_yaml import ContentError
from .names import unknown_class, unknown_option

PARSERS = [Path(str(package.__file__)).parent for package in (jsonargparse, yaml)]
BASES = {"model": LightningModule, "data": LightningDataModule}
UNKNOWN = (
    r"unrecognized arguments: (\S+)|Option '([^']+)' is not accepted"
    r"|Group '([^']+)' does not accept option '([^']+)'"
)


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


def failed_import(report: BaseException | None) -> BaseException | None:
    """Find in a parser's report that a module could not be imported for an error of its own."""
    return next(filter(fails_on_import, origins(report)), None)


def construction_error(report: Exception) -> BaseException:
    """Find what a constructor has raised in the report that a parser has made of it."""
    raised = (e for e in origins(report) if not raised_in(e.__traceback__, PARSERS[0]))
    return next(raised, report)


def explain_parsing(
    text: str, error: BaseException | None, names: Iterable[str], owner: str
) -> str:
    """Reduce jsonargparse's nested report to its innermost finding.

    ``names`` are those of the ``owner``'s options; a parser within may have explained the error.
    """
    found = re.search(r'Parser key "([^"]+)"', text)
    key = found[1] if found else ""
    while error is not None:
        if isinstance(error, InputError):
            return f"{key}.{error}"
        error = error.__cause__
    if found := re.search(UNKNOWN, text):
        option = found[1] or "--" + ".".join(part for part in found.groups()[1:] if part)
        return unknown_option(option, names, owner)
    if found := re.search(r"arguments are required: ([^\n]+)", text):
        return f"{found[1]}: {owner} needs it. Give it a value."
    if found := re.search(r"Expected a dot import path string: (\S+)", text):
        return unknown_class(key or owner, found[1], listed(key))
    if found := re.search(r"(No module named [^\n]+|module \S+ has no attribute [^\n]+)", text):
        return f"{key}: cannot import it: {found[1].rstrip('.')}."
    if found := re.search(r"Import path .*does not correspond to a subclass of (\w+)", text):
        return f"{key}: `{_given(text)}` is no {found[1]}."
    if "Expected a" in text:
        return _wrong_type(text, key)
    return f"{key}: {first_line(text)}" if key else first_line(text)


def listed(owner: str) -> list[str]:
    """List the short names that the project gives for its models or its data."""
    package, base = current().package, BASES.get(owner)
    modules = [sys.modules.get(name) for name in (package, f"{package}.models", f"{package}.data")]
    named = {name: value for module in modules if module for name, value in vars(module).items()}
    kinds = {name: value for name, value in named.items() if isinstance(value, type) and base}
    return sorted(name for name, cls in kinds.items() if cls != base and issubclass(cls, base))


def explain_unparsed(error: Exception) -> str | None:
    """Say at which option a parser has failed itself; None where another's code has."""
    trace, is_content = error.__traceback__, isinstance(error, ContentError)
    if fails_on_import(error) or not (is_content or raised_in(trace, *PARSERS)):
        return None
    options = [frame.f_locals.get("option_string") for frame in frames(trace)]
    option = next((str(option).lstrip("-") for option in reversed(options) if option), "options")
    problem = str(error) if is_content else f"{type(error).__name__}: {error}"
    return f"{option}: cannot be read ({first_line(problem)})."


def _wrong_type(text: str, key: str) -> str:
    wanted = re.findall(r"Expected (?:a|an) (.+?)(?:\. Got value: .*)?$", text, re.M)
    names = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", name) for name in wanted]
    kinds = list(dict.fromkeys(name for name in names if name != "NoneType"))
    given = _given(text)
    literals = [c for k in kinds if "Literal[" in k for c in re.findall(r"'([^']*)'", k)]
    if literals:
        return f"{key}: `{given}` is not a choice. {suggest(given, literals)}"
    kinds = ["list" if kind == "Sequence" else kind for kind in kinds]
    wish = " or ".join([*(kinds or ["options"]), *(["null"] if "NoneType" in names else [])])
    return f"{key}: `{given}` has the wrong type. Give {wish}."


def _given(text: str) -> str:
    found = re.search(r"(?:Got|Given) value: (.*)", text)
    return found[1] if found else "it"
