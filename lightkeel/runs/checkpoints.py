"""Checkpoints as files: written whole or not at all, and opened as plain values."""

import hashlib
import io
import os
import pickle
import re
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch.nn.parameter import is_lazy

from .find import SEAL, SEAL_LENGTH, UNZIPPABLE, damage

# What reading a damaged checkpoint may raise, beside `pickle.UnpicklingError`.
UNREADABLE: tuple[type[Exception], ...] = (
    *UNZIPPABLE,
    *(TypeError, AttributeError, AssertionError, ArithmeticError),
)

KEPT_AS_THEY_ARE = (dict, OrderedDict, defaultdict)


class WholeCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint aside, flush it to disk, and rename it.

    A file of its name is whole at any moment: the one before or the new one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        if "://" in str(path):  # not a file of this machine
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        whole = Path(path)
        part = whole.with_name(f"{whole.name}.part")
        buffer = io.BytesIO()
        torch.save(plain(checkpoint), buffer)
        try:
            whole.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                for piece in sealed(buffer.getbuffer()):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, whole)
            flush_folder(whole.parent)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OSError(
                f"{whole} cannot be written ({error.strerror}). The checkpoints there are as they "
                f"were.\nMake room, then go on with --resume {whole.parent.parent}"
            ) from None


def plain(tree: Any, key: str = "") -> Any:
    """Return nested containers with the values of numpy as plain ones and as tensors.

    Args:
        tree: What is to be written; it is not changed.
        key: Where it stands in the checkpoint.

    Raises:
        ValueError: A value could not be read back without running code.
    """
    if tree is None or type(tree) in (str, int, float, bool) or isinstance(tree, torch.Tensor):
        return tree
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "biufc":
        return torch.from_numpy(np.array(tree))
    if isinstance(tree, dict):
        parts = {plain(name): plain(part, f"{key}.{name}") for name, part in tree.items()}
        if type(tree) in KEPT_AS_THEY_ARE and all(parts.get(n) is tree[n] for n in tree):
            return tree  # a state dict has attributes
        return parts
    if type(tree) in (list, tuple):
        return type(tree)(plain(part, f"{key}.{n}") for n, part in enumerate(tree))
    if not is_readable(tree):
        raise ValueError(
            f"`{key.lstrip('.')}` of the checkpoint is a {type(tree).__name__}, which could not be "
            "read back without running code.\nKeep numbers, strings, tensors, lists and dicts of "
            "them in states; leave others out of hyperparameters: save_hyperparameters(ignore=...)."
        )
    return tree


def is_readable(value: Any) -> bool:
    """Try whether a value can be written and read back as one that runs no code."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except (pickle.PickleError, *UNREADABLE):  # type: ignore[misc]
        return False
    return True


def save_model(model: LightningModule, path: Path, class_names: list[str] | None) -> None:
    """Write a checkpoint that holds a model, and nothing that only training needs."""
    checkpoint = {
        "state_dict": model.state_dict(),
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,  # Lightning asks for them
        "hparams_name": "kwargs",
        "hyper_parameters": dict(model.hparams),
        **({"class_names": class_names} if class_names else {}),
    }
    WholeCheckpointIO().save_checkpoint(checkpoint, path)


def sealed(archive: memoryview) -> Iterator[bytes | memoryview]:
    """Yield a zip archive, as torch writes, in pieces, with its checksum as comment.

    An archive ends with the length of its comment, in two bytes, and the comment.
    """
    checksum = hashlib.sha256()
    for piece in (archive[:-2], SEAL_LENGTH.to_bytes(2, "little")):
        checksum.update(piece)
        yield piece
    yield SEAL + checksum.hexdigest().encode()


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that holds plain values only.

    Raises:
        ValueError: It is cut short or changed, no checkpoint, or holds objects that would run code.
    """
    if zipfile.is_zipfile(path) and (reason := damage(path)):
        raise ValueError(f"RUN {path}: is damaged ({reason}).\nUse another checkpoint of the run.")
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" (`{found[1]}`)" if found else ""
        raise ValueError(
            f"RUN {path}: holds objects{what} that could run code, or is damaged.\n"
            "Use a checkpoint written by this project."
        ) from None
    except UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:80]
        raise ValueError(
            f"RUN {path}: is cut short or no checkpoint ({reason}).\n"
            "Use another checkpoint of the run."
        ) from None
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"RUN {path}: is no checkpoint of a LightningModule: no `state_dict`.")
    return dict(checkpoint)


def check_when_loaded(path: Path, model: LightningModule) -> None:
    """Have Lightning call ``check_matches`` before it loads the checkpoint into a model.

    By then the model is whole, which may have layers made in ``setup`` or ``configure_model``, and
    its ``on_load_checkpoint`` has changed in the checkpoint what it likes.
    """
    hook = partial(_load_checked, path, model, model.on_load_checkpoint)
    model.on_load_checkpoint = hook  # type: ignore[method-assign]


def _load_checked(
    path: Path,
    model: LightningModule,
    on_load_checkpoint: Callable[[dict[str, Any]], None],
    checkpoint: dict[str, Any],
) -> None:
    on_load_checkpoint(checkpoint)
    check_matches(path, checkpoint, model)


def check_matches(path: Path, checkpoint: Mapping[str, Any], model: LightningModule) -> None:
    """Raise ``ValueError`` unless the weights in a checkpoint are those of such a model.

    With ``model.strict_loading`` off, either may have weights that the other has not. Layers whose
    size follows from their first input have any.
    """
    there, here = checkpoint["state_dict"], model.state_dict()
    wrong = [n for n in here if n not in there] + [n for n in there if n not in here]
    wrong = wrong if model.strict_loading else []
    sized = [name for name in here if name in there and not is_lazy(here[name])]
    shapes = [n for n in sized if here[n].shape != getattr(there[n], "shape", None)]
    if wrong or shapes:
        name = (shapes or wrong)[0]
        found = tuple(getattr(there[name], "shape", ())) if name in there else "missing"
        wanted = "unknown" if name not in here else "of any size"
        if name in here and not is_lazy(here[name]):
            wanted = str(tuple(here[name].shape))
        raise ValueError(
            f"RUN {path}: is a checkpoint of another model than {type(model).__name__} as "
            f"configured: `{name}` is {found} there and {wanted} here.\n"
            "Give the configuration it was trained with."
        )


def matching_classes(path: Path, checkpoint: Mapping[str, Any]) -> Callback:
    """Make a callback that matches classes again, for data that knows its own once it is set up."""
    names = {"class_names": checkpoint.get("class_names")}

    def match(trainer: Any, pl_module: LightningModule, stage: str) -> None:
        match_classes(path, names, trainer.datamodule)

    return LambdaCallback(setup=match)


def match_classes(path: Path, checkpoint: Mapping[str, Any], data: Any) -> None:
    """Have data number its classes as the model in a checkpoint does: by name.

    There may be fewer than the model knows, in another order. Data without names stays as it is.

    Raises:
        ValueError: There are others, or the data keeps to numbers of its own.
    """
    known = checkpoint.get("class_names")
    if not isinstance(known, list):
        return
    here = getattr(data, "class_names", None)
    if not here or list(here) == known:
        return
    if unknown := [name for name in here if name not in known]:
        raise ValueError(
            f"data: has classes that the model does not know: {_listed(unknown)}.\n"
            f"It knows: {_listed(known)} (from {path}).\n"
            "Rename what is the same, and leave out the rest."
        )
    if hasattr(data, "use_classes"):
        data.use_classes(known)
    if list(data.class_names) != known:
        raise ValueError(
            f"data: {type(data).__name__} numbers its classes {_listed(here)}, but the model was "
            f"trained with {_listed(known)}.\nHave its `use_classes(names)` set `class_names`."
        )


def _listed(names: Sequence[Any], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def check_unfinished(path: Path, checkpoint: Mapping[str, Any], trainer: Trainer) -> None:
    """Raise ``ValueError`` where nothing of the run that a checkpoint belongs to is left to do."""
    try:
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        steps = checkpoint["global_step"]
    except (LookupError, TypeError):
        raise ValueError(
            f"--resume {path.parent.parent}: {path.name} does not tell how far the run has come. "
            "Resume from a checkpoint that this project wrote in training."
        ) from None
    if not (path.parent.parent / "metrics.json").exists():
        return  # if nothing is left to train, it was killed before its end
    limits = {"max_epochs": (epochs, trainer.max_epochs), "max_steps": (steps, trainer.max_steps)}
    for name, (done, limit) in limits.items():
        if limit is not None and limit != -1 and done >= limit:
            raise ValueError(
                f"--resume {path.parent.parent}: is done, with {epochs} epochs and {steps} steps. "
                f"Set trainer.{name} to more than {done} to go on."
            )
