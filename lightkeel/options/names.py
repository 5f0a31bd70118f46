"""The options that are given, checked by their names before torch is imported.

Names are refused here only where that is certain; the parser in ``cli`` judges all that passes.
"""

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors.bad_input import InputError
from ..errors.checks import suggest
from ..project import current
from ..runs.safe_yaml import flatten
from . import cache, moved
from .cache import Known
from .configs import read_yaml, resolve_configs
from .guesses import MOST, NEAR, WORDS, ending, nearest, of_other_classes, plain

COMMAND_LINE = "the command line"
HELP = re.compile(r"-h|--([\w.]+\.)?help(=.*)?")
NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
PATH = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]")
Fault = tuple[str, str, set[str], str]
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
    if known is not None:
        check_names(tokens, known, own, is_alone="lightning" not in sys.modules)


def check_names(
    tokens: Sequence[str], known: Known, own: Sequence[str] = (), is_alone: bool = True
) -> None:
    """Raise ``InputError`` for a name that is certainly none, and say what was probably meant.

    Args:
        tokens: The command line, with the paths of configs.
        known: What the parser knows.
        own: Options that the command has beside those of training, to be suggested.
        is_alone: Whether no class but those that are known can have a short name.
    """
    if any(HELP.fullmatch(token) for token in tokens):
        return
    seen, words = _Seen(known, own, is_alone), list[str]()
    unknown: list[tuple[str, Fault]] = []
    for name, value in _given([*tokens], seen.folders, words):
        if fault := seen.fault(name):
            unknown.append((name, fault))
        else:
            seen.take(name, value)
    if unknown:
        name, fault = unknown[0]
        text = seen.explain(*fault)
        typed = [token.lstrip("-").partition("=")[0] for token in tokens]
        is_typed = any(f"{name}.".startswith(f"{option}.") for option in typed)
        raise InputError(text if is_typed else text.replace("`--", "`"))
    if words:
        raise InputError(no_option(words))


class _Seen:
    """The options that are given, and the classes that they choose."""

    def __init__(self, known: Known, own: Sequence[str], is_alone: bool) -> None:
        self.known, self.own, self.is_alone = known, own, is_alone
        # Of which class the model, the data and each callback is so far; None: any.
        self.chosen = {path[:-1]: cls for path, cls in known.classes.items() if path[-1] == ":"}
        self.folders = [Path()]  # where a file could be that a short name means
        self.given: dict[str, None] = {}

    def fault(self, name: str) -> Fault | None:
        """Return where a name is no option: below what, the rest of it, what there is, and whose.

        None: there is such an option, or may be.
        """
        owner, below = self._parts(name)
        if owner:
            whose, options = self.chosen[owner] or ("", [below.split(".")[0]])
            is_one = below.split(".")[0] in ("", "class_path", "init_args", "dict_kwargs", *options)
            return None if is_one else (f"{owner}.", below, {*options}, whose)
        group, _, below = name.partition(".")
        names = [other.split(".") for other in self.known.names]
        tops = {other[0] for other in names}
        parts = {other[1] for other in names if other[0] == group and other[1:]}
        if group not in tops:
            return "", name, tops | {*self.own}, COMMAND_LINE
        is_one = not parts or below.split(".")[0] in ("", *parts)
        return None if is_one else (f"{group}.", below, parts, group)

    def explain(self, parent: str, rest: str, choices: set[str], whose: str) -> str:
        """Say that there is no such option, and which was probably meant; see ``fault``."""
        part, said = rest.split(".")[0], f"{whose} has no such option."
        if instead := moved.GONE.get(f"{parent}{part}"):
            return f"{parent}{part}: {said} {instead}"
        is_near = difflib.get_close_matches(part, choices, 1, NEAR)
        may_be = not (parent and is_near)  # of the options at the top few are meant
        if may_be and (asked := self.guess(rest, nearly=not parent and not is_near)):
            return f"{parent}{rest}: {said} {asked}"
        hint = "Available: none (options of another class stand after it)."
        if choices:
            hint = suggest(part if parent or is_near else "", choices)
        return f"{parent}{part}: {said} {hint}"

    def take(self, name: str, value: Any) -> None:
        """Note an option, and the class that it chooses."""
        self.is_alone &= not PATH.search(str(value)) or str(value) in self.known.classes
        owner, below = self._parts(name)
        if owner and below in ("", "class_path") and value != {}:
            self._choose(owner, value)
        elif not owner:  # a file, perhaps, that chooses classes
            self.chosen |= {o: None for o in self.chosen if o.startswith(f"{name}.")}
        self.given[name.replace(".init_args", "").removesuffix(".class_path")] = None

    def guess(self, name: str, nearly: bool = False) -> str:
        """Ask whether options of that name were meant; ``nearly``: it may be misspelt."""
        made = [f"{owner}.{part}" for owner, cls in self.chosen.items() if cls for part in cls[1]]
        given = [option for option in self.given if not self.fault(option)]  # a class may have gone
        options = [*dict.fromkeys([*given, *made, *self.known.names])]
        found, target = ending(name, options), WORDS.get(plain(name), "")
        option, _, value = target.partition(" ")
        if option == "config" and value:
            is_there = (current().configs / f"{value}.yaml").is_file()
        else:
            is_there = bool(target) and not self.fault(option)
        if is_there:
            found = [target, *(other for other in found if not target.startswith(other))]
        asked = [f"`--{option}`" for option in found] or of_other_classes(name, self.known)
        if asked:
            return f"Did you mean {' or '.join(asked[:MOST])}?"
        near = nearest(name, options, self.known) if nearly else ""
        return self.guess(near) if near else ""

    def _parts(self, name: str) -> tuple[str, str]:
        """Part a name into that of a model, the data or a callback, and what is below it."""
        owner = next((owner for owner in self.chosen if f"{name}.".startswith(f"{owner}.")), "")
        return owner, name.removeprefix(owner)[1:].removeprefix("init_args.")

    def _choose(self, owner: str, value: Any) -> None:
        short = "" if value is None else str(value)
        short = short.lower() if isinstance(value, bool) else short
        path = short if "." in short else f"{owner}:{short}"
        self.chosen[owner] = self.known.classes.get(path)
        is_class = isinstance(value, (str, bool)) and short.isidentifier()
        is_unknown = is_class and self.is_alone and path not in self.known.classes
        is_file = any(Path(folder, short).exists() for folder in self.folders)
        if is_unknown and owner in self.known.listed and not is_file:
            off = ["null"] * owner.startswith("callbacks.")
            raise InputError(unknown_class(owner, short, [*self.known.listed[owner], *off]))


def _given(tokens: list[str], folders: list[Path], words: list[str]) -> Iterator[tuple[str, Any]]:
    """List the options by their dotted names, classes before what they are made with.

    Adds to ``folders`` where configs are, and to ``words`` what is no option.
    """
    while tokens and (token := tokens.pop(0)) != "--":
        option, equals, value = token.partition("=")
        is_option = re.match("--|-[A-Za-z]", token)  # -1 is a value
        if is_option and not equals and tokens and not tokens[0].startswith("--"):
            value = tokens.pop(0)
        parts: dict[str, Any] = {}
        if option == "--config":
            folders.append(Path(value).parent)
            parts = flatten(read_yaml(Path(value)))
        elif (is_option or (equals and NAME.fullmatch(option))) and "init_args" not in option:
            parts = flatten(read_yaml(value), option.lstrip("-"))
        if not is_option and re.fullmatch(r"[^-\s]\S*", token):
            words.append(token)
        ordered = sorted(parts.items(), key=lambda part: not part[0].endswith("class_path"))
        yield from (part for part in ordered if NAME.fullmatch(part[0]))


def name_classes(tokens: Sequence[str]) -> list[str]:
    """Have ``--model.help`` and the like come last, and show the class that is chosen by then."""
    parts = _given([*tokens], [], [])
    chosen = {name.removesuffix(".class_path"): v for name, v in parts if isinstance(v, str)}
    others, asked = list[str](), list[str]()
    rest = iter(pairwise([*tokens, "--"]))
    for token, following in rest:
        name, equals, _ = token.partition("=")
        if not name.endswith(".help"):
            others.append(token)
            continue
        path = chosen.get(name.removeprefix("--").removesuffix(".help"))
        if not equals and not following.startswith("--"):
            path = next(rest)[0]
        asked.append(f"{token}={path}" if path and not equals else token)
    return others + asked


def no_option(words: Sequence[str]) -> str:
    """Say that words are no options, and how to name the experiment that one of them may be."""
    known = [path.stem for path in current().configs.glob("*.yaml")]
    near = [n for word in words for n in difflib.get_close_matches(Path(word).stem, known, 1, NEAR)]
    example = f"--{words[0]}" if "=" in words[0] else "--trainer.max_epochs 5"
    how = f"Options begin with --, as in {example}."
    if near:
        how = f"Give the experiment as --config {near[0]}."
    return f"{words[0]}: is no option. {how}"


def unknown_class(owner: str, name: str, known: Iterable[str]) -> str:
    """Say that a short name stands for no class, and which was probably meant."""
    hint = suggest(name, known) if known else "Give its path, as in package.module.Name."
    return f"{owner}: there is no class `{name}`. {hint}"
