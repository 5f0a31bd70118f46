"""Turn what PyTorch, Lightning and the parser say of bad input into a few lines that help."""

import dis
import re
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType, TracebackType

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
from torch import nn

from ..callbacks.monitor_check import MonitorCheck
from ..errors.bad_input import InputError
from ..errors.checks import snake_case, suggest
from ..project import LIBRARY, current
from ..runs.safe_yaml import ContentError
from .names import unknown_class, unknown_option

LIGHTNING = Path(lightning.__file__).parent
LOGGERS = LIGHTNING / "pytorch" / "loggers"
PARSERS = [Path(str(package.__file__)).parent for package in (jsonargparse, yaml)]
# Whose code is nobody's who uses this project: that of Python and of packages.
INSTALLED = {
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(Path(str(package.__file__)).parents[1] for package in (jsonargparse, lightning, torch)),
}
MODELS_AND_DATA = ["models", "data"]  # where a person's own are put
STEPS = ("training_step", "validation_step", "test_step", "predict_step", "forward")


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
    """Say what was wrong with the input, or None where the error is not about input.

    Bad input is what a check refuses, by a ``raise`` statement of this package or of Lightning. An
    operation that fails is a crash wherever it stands, and so is what is raised while a module is
    imported or a batch computed, and what Lightning raises when a person's code calls it.
    """
    trace = error.__traceback__
    if isinstance(error, torch.OutOfMemoryError):
        return out_of_memory(error)
    if fails_on_import(error):
        return None
    if str(error).startswith("Expected more than 1 value per channel when training"):
        return one_sample(error)
    if type(error).__module__.startswith(("wandb.errors", "mlflow.exceptions")):
        return no_tracking(error)
    connectors = (part for part in at_work(trace) if isinstance(part, _CheckpointConnector))
    restores = any(part._loaded_checkpoint for part in connectors)
    is_checked = raised_by_project(trace) and is_check(trace)  # which says more
    if restores and not is_checked and not any(is_own(frame.f_code) for frame in frames(trace)):
        what = f"{type(error).__name__}: {_first_line(str(error))}"
        return f"--resume: the checkpoint holds what cannot be restored ({what}).\nUse another."
    if raised_in(trace, LIGHTNING):
        refuses = isinstance(error, (ValueError, MisconfigurationException)) and is_check(trace)
        return f"trainer: {error}" if refuses and not called_by_own_code(trace) else None
    return attribute(error) if raised_by_project(trace) and is_refusal(error) else None


def is_refusal(error: BaseException) -> bool:
    """Tell whether an exception that this package raised says that input is bad."""
    trace = error.__traceback__
    if isinstance(error, FloatingPointError):  # of callbacks that watch the steps
        return is_check(trace)
    computes = any(
        frame.f_code.co_name in STEPS and isinstance(frame.f_locals.get("self"), nn.Module)
        for frame in frames(trace)
    )
    if computes:
        return False
    return isinstance(error, OSError) or (isinstance(error, ValueError) and is_check(trace))


def explain_construction(error: BaseException) -> str | None:
    """Say what a constructor, of whomever, refuses; None where it has failed otherwise."""
    if isinstance(error, ModuleNotFoundError) and raised_in(error.__traceback__, LOGGERS):
        return no_package(error.__traceback__)
    refuses = isinstance(error, (ValueError, MisconfigurationException))
    is_input = isinstance(error, FileNotFoundError) or (refuses and is_check(error.__traceback__))
    return attribute(error) if is_input else None


def no_package(trace: TracebackType | None) -> str:
    """Say which package a logger of Lightning's needs, and how to install it."""
    logger = type([part for part in at_work(trace) if isinstance(part, Logger)][-1])
    package = logger.__module__.rpartition(".")[2]
    known = (current().root / "locks" / f"{package}.lock").is_file()
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


def one_sample(error: BaseException) -> str | None:
    """Say which batch has one sample alone, which batch normalization refuses; None: of no loop."""
    numbers = (f.f_locals.get("batch_idx") for f in frames(error.__traceback__))
    number = next((number for number in numbers if isinstance(number, int)), None)
    return (
        None
        if number is None
        else (
            f"model: batch {number} of the epoch holds one sample, whose mean and variance are no "
            f"statistics for batch normalization ({error}).\n"
            "Leave it out with data.drop_last true, or choose another data.batch_size."
        )
    )


def out_of_memory(error: torch.OutOfMemoryError) -> str:
    """Say with which batch size the memory of a device ran out, and how to do with less."""
    parts = list(at_work(error.__traceback__))
    evaluates = any(isinstance(part, _EvaluationLoop) for part in parts)
    trainer = next((part for part in parts if isinstance(part, Trainer)), None)
    name = "val_batch_size" if evaluates else "batch_size"
    size = getattr(getattr(trainer, "datamodule", None), name, "this size")
    accumulating = "" if evaluates else " with callbacks.gradient_accumulation.batches"
    key = f"data.{name}"
    remedy = f"Use a smaller {key}{accumulating}, or --trainer.precision bf16-mixed."
    return too_large(f"{key}: {size}", error, remedy)


def too_large(setting: str, error: torch.OutOfMemoryError, remedy: str) -> str:
    """Say with which batch size the memory of a device ran out, and what to do."""
    found = re.search(r"Tried to allocate [^.]*(\.\d+)? \w+", str(error))
    wanted = f" ({found[0]})" if found else ""
    return f"{setting}: the device's memory is too small for it{wanted}.\n{remedy}"


def frames(trace: TracebackType | None) -> Iterator[FrameType]:
    """List the calls that an exception has passed, the outermost first."""
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def at_work(trace: TracebackType | None) -> Iterator[object]:
    """List whose methods were at work when an exception was raised, the outermost first."""
    for frame in frames(trace):
        yield frame.f_locals.get("self")


def raised_in(trace: TracebackType | None, folder: Path) -> bool:
    """Tell whether an exception was raised by a line of the files in ``folder``."""
    last = next(iter([*frames(trace)][::-1]), None)
    return last is not None and folder in Path(last.f_code.co_filename).parents


def raised_by_project(trace: TracebackType | None) -> bool:
    """Tell whether an exception was raised by a line of the library or of the project."""
    return raised_in(trace, LIBRARY) or raised_in(trace, current().folder)


def is_check(trace: TracebackType | None) -> bool:
    """Tell whether a ``raise`` statement made an exception, and not an operation that failed."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def called_by_own_code(trace: TracebackType | None) -> bool:
    """Tell whether Lightning raised an exception as a person's code called it, and not the reverse.

    Setting up the data, as to count the steps of a run for a schedule, checks options.
    """
    calls = [frame.f_code for frame in frames(trace)]
    for caller, called in pairwise(calls):
        is_lightning = LIGHTNING in Path(called.co_filename).parents
        if is_lightning and called.co_name != "estimated_stepping_batches" and is_own(caller):
            return True
    return False


def is_own(code: CodeType) -> bool:
    """Tell whether a function is a person's own: neither installed nor that of this package."""
    file = Path(code.co_filename)
    if file.name.startswith("<"):  # made by a program, or part of Python
        return False
    homes = {*file.parents}
    folder = current().folder
    examples = {folder / name for name in MODELS_AND_DATA}
    return bool(homes & examples) or not homes & {*INSTALLED, LIBRARY, folder}


def fails_on_import(error: BaseException) -> bool:
    """Tell whether an exception was raised by the lines of a module, as it was imported."""
    is_module = any(frame.f_code.co_name == "<module>" for frame in frames(error.__traceback__))
    return is_module or isinstance(error, SyntaxError)


def origins(report: BaseException) -> Iterator[BaseException]:
    """List the exceptions that a parser's report was made from, that itself first.

    Of the alternatives of a type it keeps one as the cause, and the others in a list.
    """
    found, seen = [report], set[int]()
    while found:
        error = found.pop(0)
        if id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        lists = (v for f in frames(error.__traceback__) for v in f.f_locals.values())
        parts = [part for value in lists if isinstance(value, list) for part in value]
        found += [part for part in [error.__cause__, *parts] if isinstance(part, BaseException)]


def failed_import(report: BaseException | None) -> BaseException | None:
    """Find in a parser's report that a module could not be imported for an error of its own."""
    errors = origins(report) if report is not None else ()
    return next((error for error in errors if fails_on_import(error)), None)


def construction_error(report: Exception) -> BaseException:
    """Find what a constructor has raised in the report that a parser has made of it."""
    raised = (e for e in origins(report) if not raised_in(e.__traceback__, PARSERS[0]))
    return next(raised, report)


def attribute(error: BaseException) -> str:
    """Repeat what an exception says, with the part of the configuration that raised it in front."""
    owner = owner_of(error.__traceback__)
    named = re.match(r"[\w.\[\]]+: ", str(error)) or not owner
    return f"{owner}{error}" if named else f"{owner.rstrip('.')}: {error}"


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
    is_parsers = any(raised_in(trace, folder) for folder in PARSERS)
    if fails_on_import(error) or not (is_content or is_parsers):
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
