"""The options that are given, checked by their names before torch is imported.

Names are refused here only where that is certain; the parser in ``cli`` judges all that passes.
"""

import ast
import inspect
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from ..errors.bad_input import InputError
from ..errors.checks import snake_case, suggest
from ..project import LIBRARY, current
from ..runs import safe_yaml
from ..runs.find import experiment_name, find_config, find_resumable
from .signatures import Class, find_class, module_file, parameters, parse

COMMAND_LINE = "the command line"
# Options that may be infinite, of clipping, early stopping and progress: it means without a limit.
LIMITS = {"max_norm", "max_value", "gradient_clip_val", "interval_s"}
LIMITS |= {"stopping_threshold", "divergence_threshold"}
NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
PARTS = {"model": "models", "data": "data"}
EPOCHS = 10  # of a model without a config; Lightning's own default is 1,000
# Modules with no model or datamodule of their own that a short name could mean.
PLAIN = {"torch", "torchvision", "torchmetrics", "lightning", "jsonargparse", "tensorboard"}
PLAIN |= {"numpy", "PIL", "yaml", "rich", "matplotlib", LIBRARY.name, *sys.stdlib_module_names}


def homes() -> dict[str, Path]:
    """Name the files whose classes can be given by short names."""
    folder = current().folder
    return {name: folder / part / "__init__.py" for name, part in PARTS.items()}


def default_config() -> str:
    """Name the experiment that is meant where none is named."""
    return str(current().default_config)


def check_options(args: Sequence[str]) -> None:
    """Raise ``InputError`` for a name on the command line or in a config that is certainly none."""
    tokens, _ = resolve_configs(list(args))
    if any(re.fullmatch(r"-h|--([\w.]+\.)?help(=.*)?", token) for token in tokens):
        return
    known = parser_options()
    if known is None:
        return
    given = Given(*known)
    while tokens:
        token = tokens.pop(0)
        option, equals, value = token.partition("=")
        if not equals and tokens and not tokens[0].startswith("--"):
            value = tokens.pop(0)
        if option == "--":
            return
        if option == "--config":
            given.folders.append(Path(value).parent)
            for name, part in items(read_yaml(Path(value))):
                given.take(name, part)
        elif option.startswith("--"):
            given.take(option.lstrip("-"), read_yaml(value))
        elif re.fullmatch(r"[^-\s]\S*", token):
            raise InputError(unknown_option(token, (), COMMAND_LINE))


class Given:
    """The options given so far: of which class the model, the data and each callback are.

    Args:
        names: Of all options of the parser, with dots.
        declared: Of these, those whose value is a class with options of its own; None: any class.
    """

    def __init__(self, names: set[str], declared: dict[str, Class | None]) -> None:
        self.names = names
        self.declared = declared
        self.classes = dict(declared)
        self.folders = [Path()]  # where a file could be that a short name means
        self.others_imported = "lightning" in sys.modules  # with them, further short names

    def take(self, name: str, value: Any) -> None:
        """Check one option by its dotted name, and those within its value."""
        if not NAME.fullmatch(name):
            return
        path = rf"(?<![\w.])(?!{current().package}\.)[A-Za-z_]\w*\.[A-Za-z_]"
        self.others_imported |= bool(re.search(path, str(value)))
        for owner in self.classes:
            if f"{name}.".startswith(f"{owner}."):
                self._take_part(owner, name.removeprefix(owner)[1:], value)
                return
        parts = name.split(".")
        is_group = any(n.startswith(f"{parts[0]}.") for n in self.names)
        name = ".".join(parts[: 1 + is_group])
        if name not in self.names:
            raise InputError(unknown_option(f"--{name}", self.names, COMMAND_LINE))
        if is_group and isinstance(value, dict):
            for key, part in items(value):
                self.take(f"{name}.{key}", part)
        elif is_group and len(parts) == 1:  # a file, perhaps, that chooses classes
            self.classes |= {key: None for key in self.classes if key.startswith(f"{name}.")}

    def _take_part(self, owner: str, name: str, value: Any) -> None:
        if not name and isinstance(value, dict):
            if "class_path" in value:
                self._choose(owner, value["class_path"])
                value = {"init_args": value.get("init_args")}
            for key, part in items(value.get("init_args", value)):
                self.take(f"{owner}.{key}", part)
        elif name in ("", "class_path"):
            self._choose(owner, value)
        elif found := self.classes[owner]:
            name, known = name.split(".")[0], parameters(found)
            if known is not None and name not in {*known, "init_args", "dict_kwargs"}:
                raise InputError(f"{owner}.{unknown_option(f'--{name}', known, found.node.name)}")

    def _choose(self, owner: str, path: Any) -> None:
        module, _, name = str(path).rpartition(".")
        file = module_file(module) if module else homes().get(owner)
        found = self.declared[owner] if path is None else find_class(file, name) if file else None
        self.classes[owner] = found
        is_short = isinstance(path, str) and path.isidentifier() and owner in homes()
        if is_short and not found and not self._may_mean_something(path):
            raise InputError(unknown_class(owner, path))

    def _may_mean_something(self, name: str) -> bool:
        is_file = any(Path(folder, name).exists() for folder in self.folders)
        return is_file or self.others_imported or is_mentioned(name)


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
            return f"{parent}{part}: {whose} has no such option. {suggest(part, children)}"
        parent += f"{part}."
    return f"{name}: there is no such option."


def unknown_class(owner: str, name: str) -> str:
    """Say that a short name stands for no class, and which was probably meant."""
    body = parse(homes()[owner]).body if owner in homes() else []
    known = {node.name for node in body if isinstance(node, ast.ClassDef)}
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    known |= {alias.asname or alias.name for node in imports for alias in node.names}
    hint = suggest(name, known) if known else "Give its path, as in package.module.Name."
    return f"{owner}: there is no class `{name}`. {hint}"


def is_mentioned(name: str) -> bool:
    """Tell whether the package may know a class of that name, be it from another package."""
    text = "\n".join(path.read_text(errors="replace") for path in current().folder.rglob("*.py"))
    imports = re.findall(r"(?m)^\s*(?:from (\w+)\S* import |import (\w+))", text)
    return bool(
        {*sum(imports, ())} - {*PLAIN, current().package, ""} or re.search(rf"\b{name}\b", text)
    )


@cache
def parser_options() -> tuple[set[str], dict[str, Class | None]] | None:
    """Read from ``cli.py`` what ``Given`` needs; None where that has more than can be followed."""
    file = LIBRARY / "options" / "cli.py"
    names = {"config", "print_config", "seed_everything", "model", "data", "trainer"}  # Lightning's
    classes: dict[str, Class | None] = {"model": None, "data": None}
    for call in (node for node in ast.walk(parse(file)) if isinstance(node, ast.Call)):
        settings = {keyword.arg: keyword.value for keyword in call.keywords}
        method = re.fullmatch(r"parser\.(\w+)", ast.unparse(call.func))
        if {"nargs", "trainer_class"} & settings.keys():
            return None
        if not method or method[1] in ("set_defaults", "link_arguments", "parse_args"):
            continue
        option = re.fullmatch(r"(?:'-\w', )?'--(\w+)'", ", ".join(map(ast.unparse, call.args)))
        if method[1] != "add_argument" or not option:
            return None
        names.add(option[1])
        if option[1] == "callbacks":
            for field, cls in table_fields():
                names.add(f"callbacks.{field}")
                classes[f"callbacks.{field}"] = cls
    source = module_file("lightning.pytorch")
    trainer = find_class(source, "Trainer") if source else None
    known = parameters(trainer) if trainer else None
    return names | {f"trainer.{name}" for name in known or ()}, classes


def table_fields() -> Iterator[tuple[str, Class | None]]:
    """List the fields of the table of callbacks, and of what classes they are."""
    own = current().folder / "callbacks" / "__init__.py"
    base = LIBRARY / "callbacks" / "table.py"
    table = find_class(own if own.is_file() else base, "Callbacks")
    while table is not None:
        for node in table.node.body:
            if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
                kind = ast.unparse(node.annotation).removesuffix(" | None")
                yield ast.unparse(node.target), find_class(table.file, kind)
        bases = table.node.bases
        table = find_class(table.file, ast.unparse(bases[0]), table.node) if bases else None


def items(value: Any) -> list[tuple[str, Any]]:
    """List what a mapping holds under names; nothing else holds anything."""
    pairs = value.items() if isinstance(value, dict) else ()
    return [(name, part) for name, part in pairs if isinstance(name, str)]


def read_yaml(source: str | Path) -> Any:
    """Read a file, or a value as the parser would; what cannot be read stays as it is."""
    try:
        return safe_yaml.load(source.read_text() if isinstance(source, Path) else source)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, safe_yaml.ContentError):
        return source


def check_config(path: Path) -> None:
    """Raise ``InputError`` where a file is no mapping, or options stand beside a ``class_path``."""
    try:
        content = safe_yaml.load(path.read_text())
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: is no valid YAML{where(error)}.") from None
    except safe_yaml.ContentError as error:
        raise InputError(f"--config {path}: cannot be read ({error}).") from None
    if not isinstance(content, dict):
        raise InputError(f"--config {path}: holds no options. Begin with `model:`, for example.")
    for key, example in {
        "callbacks": "checkpoint: {mode: max}",
        "trainer": "max_epochs: 5",
    }.items():
        if not isinstance(content.get(key, {}), dict):
            raise InputError(f"{key}: give names and options, as in `{example}`.")
    for key in ("model", "data"):
        part = content.get(key)
        stray = _beside_class_path(part)
        if stray:
            name = sorted(stray)[0]
            raise InputError(f"{key}.{name}: stands beside class_path. Put it under `init_args`.")


def check_finite(settings: Any, name: str = "") -> None:
    """Raise ``InputError`` for a setting that is NaN, or infinite and no limit.

    A default of a class is its own business, and may be given too.

    Args:
        settings: Parsed options, or a part of them.
        name: The part's, with dots.
    """
    if isinstance(settings, dict):
        defaults = _defaults(settings["class_path"]) if "class_path" in settings else {}
        for key, value in settings.items():
            if key != "init_args":
                check_finite(value, f"{name}.{key}".lstrip("."))
        for key, value in items(settings.get("init_args")):
            if repr(value) != repr(defaults.get(key)):  # NaN equals nothing
                check_finite(value, f"{name}.{key}")
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


def where(error: Exception) -> str:
    """Say what a parser of YAML has found, and in which line."""
    mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
    line = f", line {mark.line + 1}" if mark else ""
    return f"{line}: {problem}" if problem else line


def resolve_configs(args: list[str]) -> tuple[list[str], str]:
    """Replace the names after ``--config`` by paths, and add what they are laid over.

    That is the configuration of the run that ``--resume`` names; else, without any, the default. A
    model of another class than the default's stands for itself: nothing of that is added.

    Returns:
        The arguments, and the name of the experiment.
    """
    parts: list[list[str]] = []
    paths: list[Path] = []
    tokens = iter(args)
    for token in tokens:
        option, equals, value = token.partition("=")
        if option not in ("--config", "-c"):
            parts.append([token])
            continue
        value = value if equals else next(tokens, "")
        if not value or value.startswith("--"):
            raise InputError(f"{option}: needs the name of a config or a path.")
        paths.append(find_config(value))
        check_config(paths[-1])
        parts.append(["--config", str(paths[-1])])
    model = chosen_model(args)
    base = None if paths or is_other_model(model) else find_config(default_config())
    overlays = current().configs.resolve() / "overlays"  # they name no experiment
    named = [path for path in (*paths, base) if path and path.resolve().parent != overlays]
    if named or model is None:
        experiment = experiment_name([*named, *paths][0])
    else:
        experiment = snake_case(model.rpartition(".")[2])
    if resumed := _value_of("--resume", args):
        runs_dir = Path(_setting("runs_dir", args, paths) or "runs")
        found = find_resumable(resumed, runs_dir, experiment, _setting("run_name", args, paths))
        if found:
            base = find_config(str(found.parent.parent / "config.yaml"))
            check_config(base)
        if found and resumed == "auto":  # the configs have only said which experiment
            parts, paths = [part for part in parts if part[0] != "--config"], []
    if base:
        parts = [["--config", str(base)], *parts]
    elif not paths and not any(token.startswith("--trainer.max_") for token in args):
        parts = [[f"--trainer.max_epochs={EPOCHS}"], *parts]
    return [token for part in parts for token in part], experiment


def appended_options(args: Sequence[str]) -> set[str]:
    """Name the options whose lists are appended to (``--NAME+=VALUE``), in configs too."""
    names = {token.partition("=")[0].removeprefix("--") for token in args}
    for option, value in pairwise(args):
        if option == "--config":
            names |= safe_yaml.flatten(read_yaml(Path(value))).keys()
    return {name[:-1].replace(".init_args", "") for name in names if name.endswith("+")}


def chosen_model(args: Sequence[str]) -> str | None:
    """Find the class of the model that a command line names; None where it names none."""
    value = read_yaml(_value_of("--model", args) or _value_of("--model.class_path", args) or "")
    if isinstance(value, str) and Path(value).is_file():
        value = read_yaml(Path(value))
    path = value.get("class_path") if isinstance(value, dict) else value
    return path if isinstance(path, str) and NAME.fullmatch(path) else None


def is_other_model(path: str | None) -> bool:
    """Tell whether a class, None for none, is another than that of the default experiment."""
    config = safe_yaml.flatten(read_yaml(current().configs / f"{default_config()}.yaml"))
    default = config.get("model.class_path")
    if path in (None, default):
        return False
    classes = [_find_model(str(name)) for name in (path, default)]
    return None in classes or classes[0] != classes[1]


def _find_model(path: str) -> Class | None:
    module, _, name = path.rpartition(".")
    file = module_file(module) if module else homes()["model"]
    return find_class(file, name) if file else None


def _beside_class_path(part: Any) -> set[str]:
    named = isinstance(part, dict) and "class_path" in part
    return set(part) - {"class_path", "init_args", "dict_kwargs"} if named else set()


def _setting(name: str, args: Sequence[str], configs: Sequence[Path]) -> str | None:
    contents = [read_yaml(config) for config in reversed(configs)]
    values = [content.get(name) for content in contents if isinstance(content, dict)]
    given = (_value_of(f"--{name}", args), *values)
    return next((value for value in given if isinstance(value, str)), None)


def _value_of(option: str, args: Sequence[str]) -> str | None:
    for number, token in enumerate(args):
        if token.startswith(f"{option}="):
            return token.partition("=")[2]
        if token == option and number + 1 < len(args):
            return args[number + 1]
    return None
