"""The metrics of a checkpoint."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..callbacks.confusion import Confusion
from ..errors.bad_input import InputError
from ..errors.explain import explained
from ..options.cli import ProjectCLI
from ..runs import checkpoints
from ..runs.files import write_json
from ..runs.output import format_value, print_table
from . import fastpath
from .devices import leave_at_exit, warn_of_slow_precision
from .lightning_state import exact_means

MOST_ROWS = 30  # of classes in the table


@explained()
def evaluate(
    path: Path, split: str, args: Sequence[str], output: Path | None
) -> dict[str, Any] | None:
    """Print the metrics of a checkpoint on a split, ``test`` or ``val``, and write them as JSON.

    Returns:
        What is written, on the first device; None on others.
    """
    checkpoint = checkpoints.load_checkpoint(path)  # refuses what is none
    cli = ProjectCLI(args, training=False)
    checkpoints.check_when_loaded(path, cli.model)
    checkpoints.restore_data(checkpoint, cli.datamodule)
    checkpoints.match_classes(path, checkpoint, cli.datamodule)
    cli.check_fit()
    warn_of_slow_precision(cli.trainer)
    confusion = Confusion(num_worst=0)
    trainer: Any = cli.trainer
    trainer.callbacks += [confusion, checkpoints.matching_classes(path, checkpoint)]
    loop = trainer.test if split == "test" else trainer.validate
    # Lightning loads the weights, when the model has made all its layers; and no callbacks' states.
    warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used to")
    options = {"ckpt_path": str(path), "weights_only": True, "verbose": False}
    with exact_means(), fastpath.active():
        found = loop(cli.model, datamodule=cli.datamodule, **options)
    metrics = {name: value for part in found for name, value in part.items()}  # one a loader
    leave_at_exit(trainer)
    if not trainer.is_global_zero:
        return None
    shown = [(name, format_value(value)) for name, value in sorted(metrics.items())]
    print_table(f"{split} split", shown, paths={"checkpoint": str(path)})
    names = checkpoint.get("class_names") or getattr(cli.datamodule, "class_names", None)
    accuracies = {} if confusion.matrix is None else print_classes(confusion.matrix, names)
    classes = {f"{split}/acc/{name}": value for name, value in accuracies.items()}
    written = {**metrics, **classes, "checkpoint": str(path), "options": " ".join(args)}
    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, written)
        except OSError as error:
            raise InputError(f"--output {output}: cannot be written ({error.strerror}).") from None
    return written


def print_classes(matrix: Tensor, names: Sequence[str] | None) -> dict[str, float]:
    """Print accuracies off a confusion matrix (K, K), rows true; return those of all classes."""
    names = names if names and len(names) == len(matrix) else [str(n) for n in range(len(matrix))]
    accuracies: dict[str, float] = {}
    rows = []
    for number, counts in enumerate(matrix.tolist()):
        found, total = counts[number], sum(counts)
        counts[number] = 0
        most = max(counts)
        taken_for = f"{names[counts.index(most)]} ({most})" if most else ""
        if total:
            accuracies[names[number]] = found / total
        shown = f"{found / total:.4f}" if total else ""
        rows.append((names[number], shown, f"{found} of {total}", taken_for))
    title = "accuracy of each class"
    if len(rows) > MOST_ROWS:
        title = f"accuracy of the lowest {MOST_ROWS}"
        rows = sorted(rows, key=lambda row: accuracies.get(row[0], 2.0))[:MOST_ROWS]
    print_table(title, rows, ("class", "accuracy", "found", "most taken for"))
    return accuracies
