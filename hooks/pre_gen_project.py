"""Refuse answers that cannot work, before anything is written; hand the others on.

Run by cookiecutter in the new, empty folder of the project, with the answers put in below.
"""

import json
import keyword
import re
import sys
from pathlib import Path

ANSWERS = r"""{{ cookiecutter | jsonify }}"""
MAX_LENGTH = 24  # of a package's name: with a longer one, lines of the tests would be too long
# What a package of the same name would hide: modules (of Python's own, `test` is in no list) and
# folders of a project.
IMPORTED = (
    "aiohttp attr certifi click cookiecutter cruft cycler dateutil filelock fsspec functorch "
    "google grpc hypothesis jinja2 jsonargparse lightkeel lightning lightning_fabric litdata "
    "lightning_utilities markdown matplotlib mlflow mpl_toolkits mpmath mypy mypyc networkx "
    "numpy nvidia onnx onnxruntime onnxscript optuna packaging paddle pandas PIL pip pluggy "
    "polars pre_commit psutil py pydantic pygments pylab pytest pytorch_lightning requests "
    "rich ruff safetensors scipy setuptools sklearn sqlalchemy sympy tensorboard test torch "
    "torchgen torchmetrics torchvision tqdm triton typing_extensions urllib3 virtualenv wandb "
    "werkzeug xdist yaml"
)
BESIDE = "benchmarks configs data docs hooks license locks makefile plots readme runs scripts tests"


def check_name(name: str, value: str, taken: set[str]) -> str | None:
    """Say what is wrong with an answer that is to be a Python name, or None."""
    if not (value.isidentifier() and value.isascii()):
        fixed = re.sub(r"\W+", "_", value, flags=re.ASCII).strip("_").lower()
        if not fixed.isidentifier():
            fixed = f"my_{fixed}".rstrip("_") if fixed else "my_project"
        return f"{name} {value!r}: is no Python identifier. Use `{fixed}`, for example."
    if value.strip("_") != value:
        fixed = value.strip("_") or "my_project"
        return f"{name} {value!r}: begins or ends with `_`. Use `{fixed}`, for example."
    if keyword.iskeyword(value):
        return f"{name} {value!r}: is a Python keyword. Use `my_{value.lower()}`, for example."
    if value.lower() in taken:
        return (
            f"{name} {value!r}: would hide a module or folder of that name. "
            f"Use `my_{value.lower()}`, for example."
        )
    return None


def find_fault(answers: dict[str, str]) -> str | None:
    """Say what is wrong with the first bad answer, or None."""
    for name in ("project_name", "description", "author", "email"):
        if not answers[name].isprintable():
            return f"{name} {answers[name]!r}: has a line break or control character. Leave it out."
    if not answers["project_name"].strip():
        return "project_name: is empty. Give the project a name."
    if answers["email"] and not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", answers["email"]):
        return f"email {answers['email']!r}: is no e-mail address. Give one, or leave it empty."
    modules = {module.lower() for module in (*sys.stdlib_module_names, *IMPORTED.split())}
    package = answers["package_name"]
    if fault := check_name("project_slug", answers["project_slug"], modules):
        return fault
    if fault := check_name("package_name", package, modules | set(BESIDE.split())):
        return fault
    if len(package) > MAX_LENGTH:
        return f"package_name {package!r}: has {len(package)} letters. Use at most {MAX_LENGTH}."
    return None


def main() -> None:
    """Write the answers to a file for the hook that follows, or exit with a message."""
    answers = json.loads(ANSWERS)
    if fault := find_fault(answers):
        print(f"error: {fault}", file=sys.stderr)
        raise SystemExit(2)
    Path(".answers.json").write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
