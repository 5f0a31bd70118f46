"""The configuration files that a command line means, and the experiment they name."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from ..errors.bad_input import InputError
from ..errors.checks import snake_case
from ..project import current
from ..runs import safe_yaml
from ..runs.find import experiment_name, find_config, find_resumable
from . import moved

EPOCHS = 10  # of a model without a config; Lightning's own default is 1,000
EXAMPLES = {"callbacks": "checkpoint: {mode: max}", "trainer": "max_epochs: 5"}


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
        paths.append(_checked(find_config(value)))
        parts.append(["--config", str(paths[-1])])
    model, default = _chosen_model(args), current().default_config
    base = None if paths or not default else find_config(default)
    base = None if base and _is_other_model(model, base) else base
    overlays = current().configs.resolve() / "overlays"  # they name no experiment
    named = [path for path in (*paths, base) if path and path.resolve().parent != overlays]
    if named or (model is None and paths):
        experiment = experiment_name([*named, *paths][0])
    else:
        experiment = snake_case((model or "model").rpartition(".")[2])
    if resumed := next(_values_of("resume", args), None):
        runs_dir = Path(_setting("runs_dir", args, paths) or "runs")
        found = find_resumable(resumed, runs_dir, experiment, _setting("run_name", args, paths))
        if found:
            base = _checked(find_config(str(found.parent.parent / "config.yaml")))
        if found and resumed == "auto":  # the configs have only said which experiment
            parts, paths = [part for part in parts if part[0] != "--config"], []
    if base:
        parts = [["--config", str(base)], *parts]
    elif not paths and not any(token.startswith("--trainer.max_") for token in args):
        parts = [[f"--trainer.max_epochs={EPOCHS}"], *parts]
    return [token for part in parts for token in part], experiment


def read_yaml(source: str | Path) -> Any:
    """Read a file, or a value as the parser would; what cannot be read stays as it is."""
    try:
        text = source.read_text() if isinstance(source, Path) else source
        return moved.mend(safe_yaml.load(text))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, safe_yaml.ContentError):
        return source


def _checked(path: Path) -> Path:
    """Return a file; raise ``InputError`` where it holds no options, or options out of place."""
    try:
        content = moved.mend(safe_yaml.load(path.read_text()))
    except (OSError, safe_yaml.ContentError) as error:
        why = getattr(error, "strerror", error)
        raise InputError(f"--config {path}: cannot be read ({why}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
        line = f", line {mark.line + 1}" if mark else ""
        why = f"{line}: {problem}" if problem else line
        raise InputError(f"--config {path}: is no valid YAML{why}.") from None
    if not isinstance(content, dict):
        raise InputError(f"--config {path}: holds no options. Begin with `model:`, for example.")
    for key, example in EXAMPLES.items():
        if not isinstance(content.get(key, {}), dict):
            raise InputError(f"{key}: give names and options, as in `{example}`.")
    for key in ("model", "data"):
        part = content.get(key)
        keys = set(part) if isinstance(part, dict) and "class_path" in part else set()
        for name in sorted(keys - {"class_path", "init_args", "dict_kwargs"}):
            raise InputError(f"{key}.{name}: stands beside class_path. Put it under `init_args`.")
    return path


def appended_options(args: Sequence[str]) -> set[str]:
    """Name the options whose lists are appended to (``--NAME+=VALUE``), in configs too."""
    names = {token.partition("=")[0].removeprefix("--") for token in args}
    for option, value in pairwise(args):
        if option == "--config":
            names |= safe_yaml.flatten(read_yaml(Path(value))).keys()
    return {name[:-1].replace(".init_args", "") for name in names if name.endswith("+")}


def _chosen_model(args: Sequence[str]) -> str | None:
    """Find the class of the model that a command line names; None where it names none."""
    given = [*_values_of("model", args), *_values_of("model.class_path", args), ""]
    value = read_yaml(given[0])
    if isinstance(value, str) and Path(value).is_file():
        value = read_yaml(Path(value))
    path = value.get("class_path") if isinstance(value, dict) else value
    return path if isinstance(path, str) and re.fullmatch(r"[\w-]+(\.[\w-]+)*", path) else None


def _is_other_model(path: str | None, base: Path) -> bool:
    """Tell whether a class, None for none, is another than that of an experiment."""
    config = safe_yaml.flatten(read_yaml(base))
    default = str(config.get("model.class_path", config.get("model")))
    pairs = [str(name or default).rpartition(".") for name in (path, default)]
    own = [name for home, _, name in pairs if f"{home}.".startswith((".", f"{current().package}."))]
    return path not in (None, default) and (len(own) < 2 or own[0] != own[1])


def _setting(name: str, args: Sequence[str], configs: Sequence[Path]) -> str | None:
    values = [safe_yaml.flatten(read_yaml(config)).get(name) for config in reversed(configs)]
    return next((v for v in (*_values_of(name, args), *values) if isinstance(v, str)), None)


def _values_of(option: str, args: Sequence[str]) -> Iterator[str]:
    for token, following in pairwise([*args, ""]):
        name, equals, value = token.partition("=")
        if name == f"--{option}" and (equals or following):
            yield value if equals else following
