"""What configurations of earlier versions name that is somewhere else now, or gone."""

import re
from typing import Any

from .. import PUBLIC
from ..errors.bad_input import InputError
from ..errors.checks import snake_case
from ..project import LIBRARY, current

PATH = re.compile(r"(\w+\.)*[A-Z]\w*")
# Options that are gone, and what takes their place. Where they were null, nothing is missed.
GONE = {
    "callbacks.lookahead": (
        "Lightning averages weights instead: "
        "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging."
    ),
    "model.compile_mode": "Give the mode to callbacks.compile instead: --callbacks.compile.mode.",
}


def mend(content: Any) -> Any:
    """Replace the paths of classes that are in the library now, and drop options that are gone.

    Raises:
        InputError: One that is gone had a value; the message says what takes its place.
    """
    mended = _mend_paths(content)
    if isinstance(mended, dict) and {"runs_dir", "resume"} <= mended.keys():  # written by a run
        _drop_callbacks(mended.get("callbacks"))
    if mended == content or not isinstance(mended, dict):
        return mended
    for option, instead in GONE.items():
        part, _, name = option.partition(".")
        place = mended.get(part)
        place = place.get("init_args", place) if isinstance(place, dict) else {}
        if place.pop(name, None) is not None:
            raise InputError(f"{option}: is gone, and this config sets it. {instead}")
    return mended


def _drop_callbacks(callbacks: Any) -> None:
    """Drop those that the project had when the run began; resuming says what that changes."""
    files = [LIBRARY / "callbacks/table.py", *current().folder.glob("callbacks/*.py")]
    text = "\n".join(file.read_text() for file in files if file.is_file())
    for name in list(callbacks) if isinstance(callbacks, dict) else []:
        if f"callbacks.{name}" not in GONE and not re.search(rf"\b{re.escape(name)}\b", text):
            del callbacks[name]


def _mend_paths(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _mend_paths(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [*map(_mend_paths, tree)]
    return new_path(tree) if isinstance(tree, str) else tree


def new_path(path: str) -> str:
    """Return where a class of the project is now that earlier versions had in its package."""
    inner = path.removeprefix(f"{current().package}.")
    if not current().package or inner == path or not PATH.fullmatch(inner):
        return path
    *modules, name = inner.split(".")
    here = current().folder.joinpath(*modules)
    files = [file for file in (here.with_suffix(".py"), here / "__init__.py") if file.is_file()]
    if any(re.search(rf"\b{name}\b", file.read_text()) for file in files):
        return path  # the project still has it
    home = PUBLIC.get(name, f"callbacks.{snake_case(name)}")
    is_there = LIBRARY.joinpath(*home.split(".")).with_suffix(".py").is_file()
    return f"{LIBRARY.name}.{home}.{name}" if is_there else path
