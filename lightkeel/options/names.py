"""The options that are given, checked by their names before torch is imported.

Names are refused here only where that is certain; the parser in ``cli`` judges all that passes.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors.bad_input import InputError
from ..errors.checks import suggest
from ..runs.safe_yaml import flatten
from . import cache, moved
from .configs import read_yaml, resolve_configs

COMMAND_LINE = "the command line"
HELP = re.compile(r"-h|--([\w.]+\.)?help(=.*)?")
NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
PATH = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]")
to_learn: list[bool] = []  # filled where the parser's names are to be kept, once it is there


def check_options(args: Sequence[str]) -> None:
    """Raise ``InputError`` for a name on the command line or in a config that is certainly none."""
    tokens, _ = resolve_configs(list(args))
    known = cache.read()
    if known is None:
        # A process that has imported Lightning before may have classes that others do not.
        to_learn[:] = [True] * ("lightning" not in sys.modules)
    if known is None or any(HELP.fullmatch(token) for token in tokens):
        return
    given = _Given(known)
    while tokens:
        token = tokens.pop(0)
        option, equals, value = token.partition("=")
        if not equals and tokens and not tokens[0].startswith("--"):
            value = tokens.pop(0)
        if option == "--":
            return
        if option == "--config":
            given.folders.append(Path(value).parent)
            given.take("", read_yaml(Path(value)))
        elif option.startswith("--") and "init_args" not in option:
            given.take(option.lstrip("-"), read_yaml(value))
        elif re.fullmatch(r"[^-\s]\S*", token):
            raise InputError(unknown_option(token, (), COMMAND_LINE))


class _Given:
    """The options given so far: of which class the model, the data and each callback are."""

    def __init__(self, known: cache.Known) -> None:
        self.known = known
        # Of which class each is; None: any.
        self.chosen = {path[:-1]: cls for path, cls in known.classes.items() if path[-1] == ":"}
        self.folders = [Path()]  # where a file could be that a short name means
        self.is_alone = "lightning" not in sys.modules  # others may bring further short names

    def take(self, name: str, value: Any) -> None:
        """Check one option by its dotted name, and those within its value, its class first."""
        parts = flatten(value, name).items()
        for key, part in sorted(parts, key=lambda pair: not pair[0].endswith("class_path")):
            if NAME.fullmatch(key):
                self._take(key, part)

    def _take(self, name: str, value: Any) -> None:
        known, names = self.known, self.known.names
        self.is_alone &= not PATH.search(str(value)) or str(value) in known.classes
        owner = next((o for o in self.chosen if f"{name}.".startswith(f"{o}.")), "")
        option = name.removeprefix(owner)[1:].removeprefix("init_args.").split(".")[0]
        if owner and option in ("", "class_path"):
            self._choose(owner, value)
        elif owner and (found := self.chosen[owner]):
            if option not in (*found[1], "init_args", "dict_kwargs"):
                raise InputError(f"{owner}.{unknown_option(f'--{option}', found[1], found[0])}")
        elif not owner:
            group, *rest = name.split(".")
            is_group = any(other.startswith(f"{group}.") for other in names)
            name = ".".join([group, *rest[:is_group]])
            if name not in names:
                raise InputError(unknown_option(f"--{name}", names, COMMAND_LINE))
            if not rest:  # a file, perhaps, that chooses classes
                self.chosen |= {key: None for key in self.chosen if key.startswith(f"{name}.")}

    def _choose(self, owner: str, given: Any) -> None:
        if given == {}:
            return
        short = "" if given is None else str(given)
        path = short if "." in short else f"{owner}:{short}"
        self.chosen[owner] = self.known.classes.get(path)
        is_short = isinstance(given, str) and given.isidentifier() and owner in self.known.listed
        is_file = is_short and any(Path(folder, given).exists() for folder in self.folders)
        if is_short and self.is_alone and not is_file and path not in self.known.classes:
            raise InputError(unknown_class(owner, given, self.known.listed[owner]))


def unknown_option(argument: str, names: Iterable[str], owner: str) -> str:
    """Say that there is no such option among ``names`` (dotted), and which was probably meant."""
    if not argument.startswith("-"):
        return f"{argument}: is no option. Options begin with --, as in --trainer.max_epochs 5."
    name = argument.lstrip("-").partition("=")[0]
    parent, parts = "", name.split(".")
    for part in parts:
        children = {n.removeprefix(parent).split(".")[0] for n in names if n.startswith(parent)}
        if part not in children:
            whose = parent.rstrip(".") or owner
            gone = [text for name, text in moved.GONE.items() if name.endswith(f".{part}")]
            hint = gone[0] if gone else suggest(part, children)
            return f"{parent}{part}: {whose} has no such option. {hint}"
        parent += f"{part}."
    return f"{name}: there is no such option."


def unknown_class(owner: str, name: str, known: Iterable[str]) -> str:
    """Say that a short name stands for no class, and which was probably meant."""
    hint = suggest(name, known) if known else "Give its path, as in package.module.Name."
    return f"{owner}: there is no class `{name}`. {hint}"
