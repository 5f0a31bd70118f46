"""Turn what PyTorch, Lightning and the parser say of bad input into a few lines that help."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import jsonargparse
import lightning
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from .callbacks.monitor_check import MonitorCheck, snake_case
from .checks import suggest
from .errors import InputError
from .find import PACKAGE, ROOT
from .options import unknown_class, unknown_option
from .safe_yaml import ContentError

LIGHTNING = Path(lightning.__file__).parent
LOGGERS = LIGHTNING / "pytorch" / "loggers"
PARSERS = [Path(str(package.__file__)).parent for package in (jsonargparse, yaml)]
INPUT_ERRORS = (ValueError, OSError, ArithmeticError)


@contextmanager
def explained() -> Iterator[None]:
    """Raise ``InputError`` for what this package or Lightning's own checks say of bad input."""
    try:
        yield
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        raise InputError(message) from error


def explain(error: BaseException) -> str | None:
    """Say what was wrong with the input, or None where the error is not about input."""
    trace = root_of(error).__traceback__
    if isinstance(error, torch.OutOfMemoryError):
        return out_of_memory(error)
    if any(isinstance(p, _CheckpointConnector) and p._loaded_checkpoint for p in at_work(trace)):
        what = f"{type(error).__name__}: {_first_line(str(error))}"
        return f"--resume: the checkpoint holds what cannot be restored ({what}).\nUse another."
    if type(error).__module__.startswith(("wandb.errors", "mlflow.exceptions")):
        return no_tracking(error)
    settings_refused = isinstance(error, ValueError) and raised_in(trace, LIGHTNING)
    if settings_refused or isinstance(error, MisconfigurationException):
        return f"trainer: {error}"
    is_ours = isinstance(error, INPUT_ERRORS) and raised_in(trace, PACKAGE)
    return attribute(error) if is_ours else None


def no_package(trace: TracebackType | None) -> str:
    """Say which package a logger of Lightning's needs, and how to install it."""
    logger = type([part for part in at_work(trace) if isinstance(part, Logger)][-1])
    package = logger.__module__.rpartition(".")[2]
    known = (ROOT / "locks" / f"{package}.lock").is_file()
    how = f"Run `make setup ADD={package}`." if known else "Install it."
    return f"trainer.logger: {logger.__name__} needs {package}, which is not installed.\n{how}"


def no_tracking(error: BaseException) -> str:
    """Say why Weights & Biases or MLflow take no metrics, and what to do."""
    if type(error).__module__.startswith("wandb"):
        name, how = "Weights & Biases", "Run `wandb login`, or set WANDB_MODE=offline."
    else:
        name, how = "MLflow", "Start its server, or set trainer.logger.tracking_uri to another."
    return (
        f"trainer.logger: {name} says: {_first_line(str(error)).split(': Max retries')[0]}\n{how}"
    )


def out_of_memory(error: torch.OutOfMemoryError) -> str:
    """Say with which batch size the memory of a device ran out, and how to do with less."""
    parts = list(at_work(error.__traceback__))
    evaluates = any(isinstance(part, _EvaluationLoop) for part in parts)
    trainer = next((part for part in parts if isinstance(part, Trainer)), None)
    name = "val_batch_size" if evaluates else "batch_size"
    size = getattr(getattr(trainer, "datamodule", None), name, "this size")
    accumulating = "" if evaluates else " with callbacks.gradient_accumulation.batches"
    found = re.search(r"Tried to allocate [^.]*(\.\d+)? \w+", str(error))
    return (
        f"data.{name}: {size}: the device's memory is too small for it"
        f"{f' ({found[0]})' if found else ''}.\n"
        f"Use a smaller data.{name}{accumulating}, or --trainer.precision bf16-mixed."
    )


def at_work(trace: TracebackType | None) -> Iterator[object]:
    """List whose methods were at work when an exception was raised, the outermost first."""
    while trace is not None:
        yield trace.tb_frame.f_locals.get("self")
        trace = trace.tb_next


def raised_in(trace: TracebackType | None, folder: Path) -> bool:
    """Tell whether an exception was raised by a line of the files in ``folder``."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and folder in Path(trace.tb_frame.f_code.co_filename).parents


def attribute(error: BaseException) -> str:
    """Repeat what an exception says, with the part of the configuration that raised it in front."""
    cause = root_of(error)
    if isinstance(cause, ModuleNotFoundError) and raised_in(cause.__traceback__, LOGGERS):
        return no_package(cause.__traceback__)
    owner = owner_of(cause.__traceback__)
    named = re.match(r"[\w.\[\]]+: ", str(cause)) or not owner
    return f"{owner}{cause}" if named else f"{owner.rstrip('.')}: {cause}"


def root_of(error: BaseException) -> BaseException:
    """Follow an exception to the one that it was raised from first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def owner_of(trace: TracebackType | None) -> str:
    """Name the part of the configuration whose object was at work when an exception was raised."""
    owner = ""
    for this in at_work(trace):
        if isinstance(this, LightningModule):
            owner = "model."
        elif isinstance(this, LightningDataModule):
            owner = "data."
        elif isinstance(this, MonitorCheck):
            owner = ""  # it names the callback that it speaks of
        elif isinstance(this, Callback):
            owner = f"callbacks.{snake_case(type(this).__name__)}."
    return owner


def explain_parsing(
    text: str, error: BaseException | None, parser: ArgumentParser, owner: str
) -> str:
    """Reduce jsonargparse's nested report to its innermost finding, with the nearest right name.

    Args:
        text: The report.
        error: What it was made from; may hold the explanation of a parser within.
        parser: The parser that reports.
        owner: Whose options these are.
    """
    found = re.search(r'Parser key "([^"]+)"', text)
    key = found[1] if found else ""
    while error is not None:
        if isinstance(error, InputError):
            return f"{key}.{error}"
        error = error.__cause__
    if found := re.search(r"unrecognized arguments: (\S+)", text):
        return _unknown_option(found[1], parser, owner)
    if found := re.search(r"Option '([^']+)' is not accepted", text):
        return _unknown_option(f"--{found[1]}", parser, owner)
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", text):
        return _unknown_option(f"--{found[1]}.{found[2]}", parser, owner)
    if found := re.search(r"arguments are required: ([^\n]+)", text):
        return f"{found[1]}: {owner} needs it. Give it a value."
    if found := re.search(r"Expected a dot import path string: (\S+)", text):
        return unknown_class(key or owner, found[1])
    if found := re.search(r"(No module named [^\n]+|module \S+ has no attribute [^\n]+)", text):
        return f"{key}: cannot import it: {found[1].rstrip('.')}."
    if found := re.search(r"Import path .*does not correspond to a subclass of (\w+)", text):
        return f"{key}: `{_given(text)}` is no {found[1]}."
    if "Expected a" in text:
        return _wrong_type(text, key)
    return f"{key}: {_first_line(text)}" if key else _first_line(text)


def explain_unparsed(error: Exception) -> str | None:
    """Say at which option a parser has failed itself; None where another's code has."""
    trace, is_content = error.__traceback__, isinstance(error, ContentError)
    if not is_content and not any(raised_in(trace, folder) for folder in PARSERS):
        return None
    option = ""
    while trace is not None:
        option = trace.tb_frame.f_locals.get("option_string") or option
        trace = trace.tb_next
    problem = str(error) if is_content else f"{type(error).__name__}: {error}"
    return f"{option.lstrip('-') or 'options'}: cannot be read ({_first_line(problem)})."


def _unknown_option(argument: str, parser: ArgumentParser, owner: str) -> str:
    known = {str(action.dest).removesuffix("+") for action in parser._actions}
    names = {name for name in known if name.split(".")[-1] not in ("help", "print_shtab")}
    return unknown_option(argument, names, owner)


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
    found = re.search(r"Got value: (.*)", text) or re.search(r"Given value: (.*)", text)
    return found[1] if found else "it"


def _first_line(text: str) -> str:
    lines = [line.strip(" -") for line in text.splitlines() if "Parser key" not in line]
    return next((line for line in lines if line), "cannot be this value. See --print_config.")
