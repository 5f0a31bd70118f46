"""Tell bad input from a crash, and say in a few lines what PyTorch and Lightning say of it."""

import dis
import re
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from traceback import walk_tb
from types import CodeType, FrameType, TracebackType

import jsonargparse
import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from ..project import LIBRARY, current
from .bad_input import InputError
from .checks import snake_case

FAST_PATH = str(LIBRARY / "fit" / "fastpath.py")
LIGHTNING = Path(lightning.__file__).parent
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
    is_ours = raised_in(trace, LIBRARY, current().folder)
    is_checked = is_ours and is_check(trace)  # which says more
    is_persons = any(is_own(frame.f_code) for frame in frames(trace))
    if passes(trace, "checkpoint_connector", "restore") and not (is_checked or is_persons):
        what = f"{type(error).__name__}: {first_line(str(error))}"
        return f"--resume: the checkpoint holds what cannot be restored ({what}).\nUse another."
    if raised_in(trace, LIGHTNING):
        refuses = isinstance(error, (ValueError, MisconfigurationException)) and is_check(trace)
        return f"trainer: {error}" if refuses and not called_by_own_code(trace) else None
    return attribute(error) if is_ours and is_refusal(error) else None


def is_refusal(error: BaseException) -> bool:
    """Tell whether an exception that this package raised says that input is bad."""
    trace = error.__traceback__
    if isinstance(error, FloatingPointError):  # of callbacks that watch the steps
        return is_check(trace)
    computes = any(
        frame.f_code.co_name in STEPS and isinstance(frame.f_locals.get("self"), nn.Module)
        for frame in frames(trace)
    )
    is_input = isinstance(error, OSError) or (isinstance(error, ValueError) and is_check(trace))
    return is_input and not computes


def explain_construction(error: BaseException) -> str | None:
    """Say what a constructor, of whomever, refuses; None where it has failed otherwise."""
    trace = error.__traceback__
    loggers = [part for part in at_work(trace) if isinstance(part, Logger)]
    if isinstance(error, ModuleNotFoundError) and loggers and raised_in(trace, LIGHTNING):
        return no_package(type(loggers[-1]))
    refuses = isinstance(error, (ValueError, MisconfigurationException))
    is_input = isinstance(error, FileNotFoundError) or (refuses and is_check(trace))
    return attribute(error) if is_input else None


def no_package(logger: type[Logger]) -> str:
    """Say which package a logger of Lightning's needs, and how to install it."""
    package = logger.__module__.rpartition(".")[2]
    known = (current().root / "locks" / f"{package}.lock").is_file()
    how = f"Run `make setup ADD={package}`." if known else "Install it."
    return f"trainer.logger: {logger.__name__} needs {package}, which is not installed.\n{how}"


def no_tracking(error: BaseException) -> str:
    """Say why Weights & Biases or MLflow take no metrics, and what to do."""
    name, how = "MLflow", "Start its server, or set trainer.logger.tracking_uri to another."
    if type(error).__module__.startswith("wandb"):
        name, how = "Weights & Biases", "Run `wandb login`, or set WANDB_MODE=offline."
    return f"trainer.logger: {name} says: {first_line(str(error)).split(': Max retries')[0]}\n{how}"


def one_sample(error: BaseException) -> str | None:
    """Say which batch has one sample alone, which batch normalization refuses; None: of no loop."""
    numbers = (frame.f_locals.get("batch_idx") for frame in frames(error.__traceback__))
    number = next((number for number in numbers if isinstance(number, int)), None)
    text = (
        f"model: batch {number} of the epoch holds one sample, whose mean and variance are no "
        f"statistics for batch normalization ({error}).\n"
        "Leave it out with data.drop_last true, or choose another data.batch_size."
    )
    return None if number is None else text


def out_of_memory(error: torch.OutOfMemoryError) -> str:
    """Say with which batch size the memory of a device ran out, and how to do with less."""
    trace = error.__traceback__
    evaluates = passes(trace, "evaluation_loop")
    trainer = next((part for part in at_work(trace) if isinstance(part, Trainer)), None)
    name = "val_batch_size" if evaluates else "batch_size"
    size = getattr(getattr(trainer, "datamodule", None), name, "this size")
    accumulating = "" if evaluates else " with callbacks.gradient_accumulation.batches"
    remedy = f"Use a smaller data.{name}{accumulating}, or --trainer.precision bf16-mixed."
    return too_large(f"data.{name}: {size}", error, remedy)


def too_large(setting: str, error: torch.OutOfMemoryError, remedy: str) -> str:
    """Say with which batch size the memory of a device ran out, and what to do."""
    found = re.search(r"Tried to allocate [^.]*(\.\d+)? \w+", str(error))
    wanted = f" ({found[0]})" if found else ""
    return f"{setting}: the device's memory is too small for it{wanted}.\n{remedy}"


def frames(trace: TracebackType | None) -> list[FrameType]:
    """List the calls that an exception has passed, the outermost first."""
    return [frame for frame, _ in walk_tb(trace)]


def at_work(trace: TracebackType | None) -> list[object]:
    """List whose methods were at work when an exception was raised, the outermost first."""
    return [frame.f_locals.get("self") for frame in frames(trace)]


def passes(trace: TracebackType | None, module: str, function: str = "") -> bool:
    """Tell whether an exception came through a function, by how it begins, of Lightning's."""
    codes = [frame.f_code for frame in frames(trace) if is_in(frame.f_code, LIGHTNING)]
    found = [code for code in codes if Path(code.co_filename).stem == module]
    return any(code.co_name.startswith(function) for code in found)


def is_in(code: CodeType, *folders: Path) -> bool:
    """Tell whether a function stands in a file of one of some folders."""
    return not {*folders}.isdisjoint(Path(code.co_filename).parents)


def raised_in(trace: TracebackType | None, *folders: Path) -> bool:
    """Tell whether an exception was raised by a line of the files in some folders."""
    return any(is_in(frame.f_code, *folders) for frame in frames(trace)[-1:])


def is_check(trace: TracebackType | None) -> bool:
    """Tell whether a ``raise`` statement made an exception, and not an operation that failed."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raising = dis.opmap["RAISE_VARARGS"]
    return trace is not None and trace.tb_frame.f_code.co_code[trace.tb_lasti] == raising


def called_by_own_code(trace: TracebackType | None) -> bool:
    """Tell whether Lightning raised an exception as a person's code called it, and not the reverse.

    Setting up the data, as to count the steps of a run for a schedule, checks options.
    """
    codes = [frame.f_code for frame in frames(trace)]
    codes = [code for code in codes if code.co_filename != FAST_PATH]  # part of Lightning
    into = [pair for pair in pairwise(codes) if is_in(pair[1], LIGHTNING) and is_own(pair[0])]
    return any(called.co_name != "estimated_stepping_batches" for _, called in into)


def is_own(code: CodeType) -> bool:
    """Tell whether a function is a person's own: neither installed nor that of this package."""
    if Path(code.co_filename).name.startswith("<"):  # made by a program, or part of Python
        return False
    folder = current().folder
    examples = [folder / name for name in MODELS_AND_DATA]
    return is_in(code, *examples) or not is_in(code, *INSTALLED, LIBRARY, folder)


def fails_on_import(error: BaseException) -> bool:
    """Tell whether an exception was raised by the lines of a module, as it was imported."""
    is_module = any(frame.f_code.co_name == "<module>" for frame in frames(error.__traceback__))
    return is_module or isinstance(error, SyntaxError)


def attribute(error: BaseException) -> str:
    """Repeat what an exception says, with the part of the configuration that raised it in front."""
    text, owner = str(error), owner_of(error.__traceback__)
    if not owner or re.match(r"callbacks(\.\w+)+: ", text):  # it says of which it speaks
        return text
    return f"{owner}.{text}" if re.match(r"[\w.\[\]]+: ", text) else f"{owner}: {text}"


def owner_of(trace: TracebackType | None) -> str:
    """Name the part of the configuration whose object was at work when an exception was raised."""
    owner = ""
    for this in at_work(trace):
        if isinstance(this, LightningModule):
            owner = "model"
        elif isinstance(this, LightningDataModule):
            owner = "data"
        elif isinstance(this, Callback):
            owner = f"callbacks.{snake_case(type(this).__name__)}"
    return owner


def first_line(text: str) -> str:
    """Return the first line of a report that says something."""
    lines = [line.strip(" -") for line in text.splitlines() if "Parser key" not in line]
    return next((line for line in lines if line), "cannot be this value. See --print_config.")
