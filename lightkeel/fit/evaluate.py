"""The metrics of a checkpoint."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
def evaluate(path: Path, split: str, args: Sequence[str], output: Path | None) -> None:
    """Print the metrics of a checkpoint on a split, with the settings in ``args``.

    Args:
        path: The checkpoint.
        split: ``test`` or ``val``.
        args: Command line of the model and its data.
        output: A file for the metrics, as JSON.
    """
    checkpoint = checkpoints.load_checkpoint(path)  # refuses what is none
    cli = ProjectCLI(args, training=False)
    checkpoints.check_when_loaded(path, cli.model)
    checkpoints.match_classes(path, checkpoint, cli.datamodule)
    cli.check_fit()
    warn_of_slow_precision(cli.trainer)
    confusion = Confusion(num_worst=0)
    trainer: Any = cli.trainer
    trainer.callbacks += [confusion, checkpoints.matching_classes(path, checkpoint)]
    loop = trainer.test if split == "test" else trainer.validate
    # Weights are loaded by Lightning, when the model has made all its layers. Of what only training
    # needs, nothing is: that is meant.
    warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used to")
    options = {"ckpt_path": str(path), "weights_only": True, "verbose": False}
    with exact_means(), fastpath.active():
        found = loop(cli.model, datamodule=cli.datamodule, **options)
    metrics = {name: value for part in found for name, value in part.items()}  # one a loader
    leave_at_exit(trainer)
    if not trainer.is_global_zero:
        return
    shown = [(name, format_value(value)) for name, value in sorted(metrics.items())]
    print_table(f"{split} split", [*shown, ("checkpoint", str(path))])
    names = checkpoint.get("class_names") or getattr(cli.datamodule, "class_names", None)
    classes = [] if confusion.matrix is None else per_class(confusion.matrix, names)
    if classes:
        some, title = classes, "accuracy of each class"
        if len(classes) > MOST_ROWS:
            some = sorted(classes, key=lambda c: (not c.num_samples, c.accuracy))[:MOST_ROWS]
            title = f"accuracy of the lowest {MOST_ROWS}"
        rows = [(c.name, c.shown, f"{c.num_found} of {c.num_samples}", c.taken_for) for c in some]
        print_table(title, rows, ("class", "accuracy", "found", "most taken for"))
    if output is not None:
        accuracies = {f"{split}/acc/{c.name}": c.accuracy for c in classes if c.num_samples}
        made = {"checkpoint": str(path), "options": " ".join(args)}
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, {**metrics, **accuracies, **made})
        except OSError as error:
            raise InputError(f"--output {output}: cannot be written ({error.strerror}).") from None


class ClassResult(NamedTuple):
    """How many samples of a class there are, how many were found, and what others most became."""

    name: str
    num_samples: int
    num_found: int
    taken_for: str

    @property
    def accuracy(self) -> float:
        """Share found, 0 where there are none."""
        return self.num_found / max(self.num_samples, 1)

    @property
    def shown(self) -> str:
        """The accuracy for a table, empty where there are no samples."""
        return f"{self.accuracy:.4f}" if self.num_samples else ""


def per_class(matrix: Tensor, names: Sequence[str] | None) -> list[ClassResult]:
    """Read the results of each class off a confusion matrix (K, K), rows true."""
    names = names if names and len(names) == len(matrix) else [str(n) for n in range(len(matrix))]
    results = []
    for number, counts in enumerate(matrix.tolist()):
        others = [count if place != number else 0 for place, count in enumerate(counts)]
        most = max(others)
        taken_for = f"{names[others.index(most)]} ({most})" if most else ""
        results.append(ClassResult(names[number], sum(counts), counts[number], taken_for))
    return results
