"""The metrics of a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from . import checkpoints, run
from .cli import ProjectCLI
from .devices import leave_at_exit
from .explain import explained


@explained()
def evaluate(path: Path, split: str, args: Sequence[str], output: Path | None) -> None:
    """Print the metrics of a checkpoint on a split, with the settings in ``args``."""
    checkpoint = checkpoints.load_checkpoint(path)
    cli = ProjectCLI(args, training=False)
    checkpoints.check_matches(path, checkpoint, cli.model)
    cli.check_fit()
    cli.model.load_state_dict(checkpoint["state_dict"])
    loop = cli.trainer.test if split == "test" else cli.trainer.validate
    (metrics,) = loop(cli.model, datamodule=cli.datamodule, verbose=False) or [{}]
    leave_at_exit(cli.trainer)
    if cli.trainer.is_global_zero:
        rows = [(name, run.format_value(value)) for name, value in sorted(metrics.items())]
        run.print_table(f"{split} split", [*rows, ("checkpoint", str(path))])
