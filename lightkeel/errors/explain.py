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

FAST_PATH = LIBRARY / "fit" / "fastpath"
LIGHTNING = Path(lightning.__file__).parent
# Whose code is nobody's who uses this project: that of Python and of packages.
INSTALLED = {
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(Path(str(package.__file__)).parents[1] for package in (jsonargparse, lightning, torch)),
}
MODELS_AND_DATA = ["models", "data"]  # where a person's own are put
STEPS = ("training_step", "validation_step", "test_step", "predict_step", "forward")
OWNERS = {LightningModule: "model", LightningDataModule: "data", Callback: "callbacks."}


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
        return _out_of_memory(error)
    if fails_on_import(error):
        return None
    if str(error).startswith("Expected more than 1 value per channel when training"):
        return _one_sample(error)
    if type(error).__module__.startswith(("wandb.errors", "mlflow.exceptions")):
        return _no_tracking(error)
    is_ours = raised_in(trace, LIBRARY, current().folder)
    is_checked = is_check(trace)
    is_said = (is_ours and is_checked) or any(_is_own(frame.f_code) for frame in frames(trace))
    if _passes(trace, "checkpoint_connector.restore") and not is_said:
        what = f"{type(error).__name__}: {first_line(str(error))}"
        return f"--resume: the checkpoint holds what cannot be restored ({what}).\nUse another."
    if raised_in(trace, LIGHTNING):
        refuses = isinstance(error, (ValueError, MisconfigurationException)) and is_checked
        return f"trainer: {error}" if refuses and not called_by_own_code(trace) else None
    watches = isinstance(error, FloatingPointError)  # of callbacks that watch the steps
    computes = not watches and any(
        frame.f_code.co_name in STEPS and isinstance(frame.f_locals.get("self"), nn.Module)
        for frame in frames(trace)
    )
    refuses = is_checked and (watches or isinstance(error, ValueError))
    is_input = is_ours and not computes and (refuses or isinstance(error, OSError))
    return _attributed(error) if is_input else None


def explain_construction(error: BaseException) -> str | None:
    """Say what a constructor, of whomever, refuses; None where it has failed otherwise."""
    trace = error.__traceback__
    loggers = [part for part in _at_work(trace) if isinstance(part, Logger)]
    if isinstance(error, ModuleNotFoundError) and loggers and raised_in(trace, LIGHTNING):
        package = type(loggers[-1]).__module__.rpartition(".")[2]
        known = (current().root / "locks" / f"{package}.lock").is_file()
        how = f"Run `make setup ADD={package}`." if known else "Install it."
        needs = f"{type(loggers[-1]).__name__} needs {package}, which is not installed."
        return f"trainer.logger: {needs}\n{how}"
    refuses = isinstance(error, (ValueError, MisconfigurationException))
    is_input = isinstance(error, FileNotFoundError) or (refuses and is_check(trace))
    return _attributed(error) if is_input else None


def _no_tracking(error: BaseException) -> str:
    name, how = "MLflow", "Start its server, or set trainer.logger.tracking_uri to another."
    if type(error).__module__.startswith("wandb"):
        name, how = "Weights & Biases", "Run `wandb login`, or set WANDB_MODE=offline."
    return f"trainer.logger: {name} says: {first_line(str(error)).split(': Max retries')[0]}\n{how}"


def _one_sample(error: BaseException) -> str | None:
    """Say which batch has one sample alone, which batch normalization refuses; None: of no loop."""
    numbers = (frame.f_locals.get("batch_idx") for frame in frames(error.__traceback__))
    number = next((number for number in numbers if isinstance(number, int)), None)
    text = (
        f"model: batch {number} of the epoch holds one sample, whose mean and variance are no "
        f"statistics for batch normalization ({error}).\n"
        "Leave it out with data.drop_last true, or choose another data.batch_size."
    )
    return None if number is None else text


def _out_of_memory(error: torch.OutOfMemoryError) -> str:
    trace, name, accumulating = error.__traceback__, "val_batch_size", ""
    if not _passes(trace, "evaluation_loop."):
        name, accumulating = "batch_size", " with callbacks.gradient_accumulation.batches"
    trainer = next((part for part in _at_work(trace) if isinstance(part, Trainer)), None)
    size = getattr(getattr(trainer, "datamodule", None), name, "this size")
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


def _at_work(trace: TracebackType | None) -> list[object]:
    return [frame.f_locals.get("self") for frame in frames(trace)]


def _passes(trace: TracebackType | None, function: str) -> bool:
    """Tell whether an exception came through a function of Lightning's: MODULE.NAME begins so."""
    codes = [frame.f_code for frame in frames(trace) if _is_in(frame.f_code, LIGHTNING)]
    return any(f"{Path(c.co_filename).stem}.{c.co_name}".startswith(function) for c in codes)


def _is_in(code: CodeType, *folders: Path) -> bool:
    return not {*folders}.isdisjoint(Path(code.co_filename).parents)


def raised_in(trace: TracebackType | None, *folders: Path) -> bool:
    """Tell whether an exception was raised by a line of the files in some folders."""
    return any(_is_in(frame.f_code, *folders) for frame in frames(trace)[-1:])


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
    codes = [code for code in codes if not _is_in(code, FAST_PATH)]  # part of Lightning
    into = [pair for pair in pairwise(codes) if _is_in(pair[1], LIGHTNING) and _is_own(pair[0])]
    return any(called.co_name != "estimated_stepping_batches" for _, called in into)


def _is_own(code: CodeType) -> bool:
    """Tell whether a function is a person's own: neither installed nor that of this package."""
    if Path(code.co_filename).name.startswith("<"):  # made by a program, or part of Python
        return False
    folder = current().folder
    examples = [folder / name for name in MODELS_AND_DATA]
    return _is_in(code, *examples) or not _is_in(code, *INSTALLED, LIBRARY, folder)


def fails_on_import(error: BaseException) -> bool:
    """Tell whether an exception was raised by the lines of a module, as it was imported."""
    is_module = any(frame.f_code.co_name == "<module>" for frame in frames(error.__traceback__))
    return is_module or isinstance(error, SyntaxError)


def _attributed(error: BaseException) -> str:
    """Repeat what an exception says, with the part of the configuration at work in front."""
    text, owner = str(error), ""
    for this in _at_work(error.__traceback__):
        owner = next((name for kind, name in OWNERS.items() if isinstance(this, kind)), owner)
        owner += snake_case(type(this).__name__) if owner.endswith(".") else ""
    if not owner or re.match(r"(callbacks(\.\w+)+|RUN): ", text):  # it says of which it speaks
        return text
    return f"{owner}.{text}" if re.match(r"[\w.\[\]]+: ", text) else f"{owner}: {text}"


def first_line(text: str) -> str:
    """Return the first line of a report that says something."""
    lines = [line.strip(" -") for line in text.splitlines() if "Parser key" not in line]
    return next((line for line in lines if line), "cannot be this value. See --print_config.")
