"""Checkpoints as files: written whole or not at all, and opened as plain values."""

import io
import pickle
import re
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch.nn.parameter import is_lazy

from .files import replace
from .find import damage


class WholeCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint aside, flush it to disk, and rename it: what is there is always whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        if "://" in str(path):  # not a file of this machine
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        whole, buffer = Path(path), io.BytesIO()
        torch.save(plain(checkpoint), buffer)
        try:
            whole.parent.mkdir(parents=True, exist_ok=True)
            replace(whole, buffer.getbuffer(), on_disk=True)
        except OSError as error:
            raise OSError(
                f"{whole} cannot be written ({error.strerror}). The checkpoints there are as they "
                f"were.\nMake room, then go on with --resume {whole.parent.parent}"
            ) from None


def plain(tree: Any, key: str = "") -> Any:
    """Return nested containers, of which none is changed, with plain values for those of numpy."""
    if tree is None or type(tree) in (str, int, float, bool) or isinstance(tree, torch.Tensor):
        return tree
    if isinstance(tree, np.generic):
        return tree.item()
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "biufc":
        return torch.from_numpy(np.array(tree))
    if isinstance(tree, dict):
        parts = {plain(name): plain(part, f"{key}.{name}") for name, part in tree.items()}
        is_known = type(tree) in (dict, OrderedDict, defaultdict)  # a state dict has attributes
        return tree if is_known and all(parts.get(n) is tree[n] for n in tree) else parts
    if type(tree) in (list, tuple):
        return type(tree)(plain(part, f"{key}.{n}") for n, part in enumerate(tree))
    buffer = io.BytesIO()
    try:
        torch.save(tree, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:  # noqa: BLE001 - whatever a class of anybody's raises
        raise ValueError(
            f"`{key.lstrip('.')}` of the checkpoint is a {type(tree).__name__}, which could not be "
            "read back without running code.\nKeep numbers, strings, tensors, lists and dicts of "
            "them in states; leave others out of hyperparameters: save_hyperparameters(ignore=...)."
        ) from None
    return tree


def save_model(
    model: LightningModule, path: Path, class_names: list[str] | None, data: Any
) -> None:
    """Write a checkpoint that holds a model, and nothing that only training needs."""
    checkpoint = {
        "state_dict": model.state_dict(),
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,  # Lightning asks for them
        "hparams_name": "kwargs",
        "hyper_parameters": dict(model.hparams),
        **({"class_names": class_names} if class_names else {}),
        **trained_state(data),
    }
    WholeCheckpointIO().save_checkpoint(checkpoint, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that holds plain values only."""

    def refused(what: str, how: str = "Use another checkpoint of the run.") -> ValueError:
        return ValueError(f"RUN {path}: {what}.\n{how}")

    try:
        reason = damage(path) if zipfile.is_zipfile(path) else None
    except zipfile.BadZipFile as error:  # of `is_zipfile`, which cannot tell
        reason = str(error)
    if reason:
        raise refused(f"is damaged ({reason})")
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds objects{f' (`{found[1]}`)' if found else ''} that could run code"
        how = "Use a checkpoint written by this project."
        raise refused(f"{what}, or is damaged", how) from None
    except Exception as error:  # noqa: BLE001 - whatever reading a damaged one may raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:80]
        raise refused(f"is cut short or no checkpoint ({reason})") from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise ValueError(f"RUN {path}: is no checkpoint of a LightningModule: no `state_dict`.")
    return checkpoint


def check_when_loaded(path: Path, model: LightningModule) -> None:
    """Have ``check_matches`` called when Lightning has a model, with all its layers, load one."""
    before = model.on_load_checkpoint  # which may change the checkpoint

    def load_checked(checkpoint: dict[str, Any]) -> None:
        before(checkpoint)
        check_matches(path, checkpoint, model)

    model.on_load_checkpoint = load_checked  # type: ignore[method-assign]


def check_matches(path: Path, checkpoint: Mapping[str, Any], model: LightningModule) -> None:
    """Raise ``ValueError`` unless a model has the weights; either may have more if not strict."""
    there, here = checkpoint["state_dict"], model.state_dict()
    sized = {n: "of any size" if is_lazy(p) else tuple(p.shape) for n, p in here.items()}
    shapes = {n: tuple(getattr(p, "shape", [type(p).__name__])) for n, p in there.items()}
    wrong = [n for n in sized if n in shapes and sized[n] not in (shapes[n], "of any size")]
    if model.strict_loading:
        wrong += [n for n in sized if n not in shapes] + [n for n in shapes if n not in sized]
    if wrong:
        found, wanted = shapes.get(wrong[0], "missing"), sized.get(wrong[0], "unknown")
        raise ValueError(
            f"RUN {path}: is a checkpoint of another model than {type(model).__name__} as "
            f"configured: `{wrong[0]}` is {found} there and {wanted} here.\n"
            "Give the configuration it was trained with."
        )


def trained_state(data: Any) -> dict[str, Any]:
    """Return what data took from its training samples, as Lightning puts it into checkpoints."""
    return {type(data).__qualname__: data.state_dict()} if hasattr(data, "use_trained") else {}


def restore_data(checkpoint: Mapping[str, Any], data: Any) -> None:
    """Give data what it took from training samples before it is set up: Lightning does so after."""
    state = checkpoint.get(type(data).__qualname__)
    if state is not None and hasattr(data, "use_trained"):
        data.use_trained(state)


def matching_classes(path: Path, checkpoint: Mapping[str, Any]) -> Callback:
    """Make a callback that matches classes again, for data that knows its own once it is set up."""
    names = {"class_names": checkpoint.get("class_names")}
    return LambdaCallback(
        setup=lambda trainer, *_, **__: match_classes(path, names, trainer.datamodule)
    )


def match_classes(path: Path, checkpoint: Mapping[str, Any], data: Any) -> None:
    """Have data number its classes as a model does, which may know more; else raise ValueError."""

    def listed(names: Sequence[Any]) -> str:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        return ", ".join(map(str, names[:10])) + more

    known, here = checkpoint.get("class_names"), getattr(data, "class_names", None)
    if not isinstance(known, list) or not here or list(here) == known:
        return
    if unknown := [name for name in here if name not in known]:
        raise ValueError(
            f"data: has classes that the model does not know: {listed(unknown)}.\n"
            f"It knows: {listed(known)} (from {path}).\n"
            "Rename what is the same, and leave out the rest."
        )
    if hasattr(data, "use_classes"):
        data.use_classes(known)
    if list(data.class_names) != known:
        raise ValueError(
            f"data: {type(data).__name__} numbers its classes {listed(here)}, but the model was "
            f"trained with {listed(known)}.\nHave its `use_classes(names)` set `class_names`."
        )


def check_unfinished(path: Path, checkpoint: Mapping[str, Any], trainer: Trainer) -> None:
    """Raise ``ValueError`` where nothing of the run that a checkpoint belongs to is left to do."""
    folder = path.parent.parent
    try:
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        steps = checkpoint["global_step"]
    except (LookupError, TypeError):
        raise ValueError(
            f"--resume {folder}: {path.name} does not tell how far the run has come. "
            "Resume from a checkpoint that this project wrote in training."
        ) from None
    is_done = (folder / "metrics.json").exists()  # else what is left may be its test alone
    limits = {"max_epochs": (epochs, trainer.max_epochs), "max_steps": (steps, trainer.max_steps)}
    for name, (done, limit) in limits.items():
        if limit is not None and limit != -1 and done >= limit + (not is_done):
            state = "is done, with" if is_done else "has trained"
            raise ValueError(
                f"--resume {folder}: {state} {epochs} epochs and {steps} steps. "
                f"Set trainer.{name} to more than {done} to go on."
            )
