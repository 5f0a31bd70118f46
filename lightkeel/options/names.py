"""The options that are given, checked by their names before torch is imported.

Names are refused here only where that is certain; the parser in ``cli`` judges all that passes.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
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


def check_options(args: Sequence[str], own: Sequence[str] = ()) -> None:
    """Raise ``InputError`` for a name on the command line or in a config that is certainly none.

    Args:
        args: The command line.
        own: Options that the command has beside those of training, to be suggested.
    """
    tokens, _ = resolve_configs(list(args))
    known = cache.read()
    if known is None:
        # A process that has imported Lightning before may have classes that others do not.
        to_learn[:] = [True] * ("lightning" not in sys.modules)
    if known is None or any(HELP.fullmatch(token) for token in tokens):
        return
    # Of which class the model, the data and each callback are so far; None: any.
    chosen = {path[:-1]: cls for path, cls in known.classes.items() if path[-1] == ":"}
    folders = [Path()]  # where a file could be that a short name means
    is_alone = "lightning" not in sys.modules  # others may bring further short names
    for name, value in _given(tokens, folders):
        is_alone &= not PATH.search(str(value)) or str(value) in known.classes
        owner = next((o for o in chosen if f"{name}.".startswith(f"{o}.")), "")
        option = name.removeprefix(owner)[1:].removeprefix("init_args.").split(".")[0]
        if owner and option in ("", "class_path"):
            if value != {}:
                short = "" if value is None else str(value)
                path = short if "." in short else f"{owner}:{short}"
                chosen[owner] = known.classes.get(path)
                is_class = isinstance(value, str) and short.isidentifier() and owner in known.listed
                is_unknown = is_class and is_alone and path not in known.classes
                if is_unknown and not any(Path(folder, short).exists() for folder in folders):
                    raise InputError(unknown_class(owner, short, known.listed[owner]))
        elif owner:
            whose, options = chosen[owner] or ("", [option])
            if option not in (*options, "init_args", "dict_kwargs"):
                raise InputError(f"{owner}.{unknown_option(f'--{option}', options, whose)}")
        else:
            group, *rest = name.split(".")
            is_group = any(other.startswith(f"{group}.") for other in known.names)
            name = ".".join([group, *rest[:is_group]])
            if name not in known.names:
                raise InputError(unknown_option(f"--{name}", [*known.names, *own], COMMAND_LINE))
            if not rest:  # a file, perhaps, that chooses classes
                chosen |= {key: None for key in chosen if key.startswith(f"{name}.")}


def _given(tokens: list[str], folders: list[Path]) -> Iterator[tuple[str, Any]]:
    """List the options by their dotted names, classes before what they are made with."""
    while tokens and (token := tokens.pop(0)) != "--":
        option, equals, value = token.partition("=")
        if not equals and tokens and not tokens[0].startswith("--"):
            value = tokens.pop(0)
        parts: dict[str, Any] = {}
        if option == "--config":
            folders.append(Path(value).parent)
            parts = flatten(read_yaml(Path(value)))
        elif option.startswith("--") and "init_args" not in option:
            parts = flatten(read_yaml(value), option.lstrip("-"))
        elif re.fullmatch(r"[^-\s]\S*", token):
            raise InputError(unknown_option(token, (), COMMAND_LINE))
        ordered = sorted(parts.items(), key=lambda part: not part[0].endswith("class_path"))
        yield from (part for part in ordered if NAME.fullmatch(part[0]))


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
            hint = "Available: none (options of another class stand after it)."
            if gone or children:
                hint = gone[0] if gone else suggest(part, children)
            return f"{parent}{part}: {whose} has no such option. {hint}"
        parent += f"{part}."
    return f"{name}: there is no such option."


def unknown_class(owner: str, name: str, known: Iterable[str]) -> str:
    """Say that a short name stands for no class, and which was probably meant."""
    hint = suggest(name, known) if known else "Give its path, as in package.module.Name."
    return f"{owner}: there is no class `{name}`. {hint}"
