"""The folder of a run: its name, what is written there, and how it is found again."""

import csv
import datetime
import io
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from . import optim, readings, status
from .files import write_json, write_whole
from .find import CHECKPOINTS, ROOT
from .safe_yaml import flatten


def new_folder(runs_dir: Path, experiment: str, run_name: str | None, again: bool) -> Path:
    """Choose the folder of a new run, without making it.

    Args:
        runs_dir: Folder of all runs.
        experiment: Name of the experiment.
        run_name: Name of the run; the time where not given.
        again: Whether a folder may be used that a run left before its first checkpoint.

    Raises:
        ValueError: The name is taken, or is no plain name.
        PermissionError: ``runs_dir`` cannot be written.
    """
    if run_name is not None and (run_name in ("", ".", "..") or "/" in run_name):
        raise ValueError(f"--run_name {run_name!r}: is not the name of a folder.")
    existing = next(p for p in (runs_dir, *runs_dir.absolute().parents) if p.exists())
    try:
        TemporaryFile(dir=existing).close()
    except OSError as error:
        raise PermissionError(
            f"--runs_dir {runs_dir}: {existing} cannot be written ({error.strerror}). "
            "Choose another folder."
        ) from None
    name = run_name or datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder = runs_dir / experiment / name
    for number in range(2, 100):
        if run_name or not folder.exists():
            break
        folder = folder.with_name(f"{name}_{number}")
    is_empty = (
        again and not (folder / CHECKPOINTS).exists() and not (folder / "metrics.json").exists()
    )
    if folder.exists() and not is_empty:
        raise ValueError(
            f"--run_name {name}: {folder} exists. Choose another name, or go on with it: "
            f"--resume {folder}"
        )
    return folder


# Settings that change what a resumed run comes to, but for those that change how fast.
INEXACT = (
    "data",
    "callbacks.gradient",
    "callbacks.lookahead",
    "callbacks.nonfinite",
    "trainer.accumulate",
    "trainer.prec",
)
PACE = (
    *("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "timeout_s"),
    *("device_resident", "cache_dir", "val_batch_size"),
)


def check_resumable(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a setting that a resumed run can no longer change.

    Of others that keep it from being exact, say so on standard error.

    Args:
        before: Resolved configuration of the run.
        now: The one to go on with.
    """
    old, new = (flatten(config) for config in (before, now))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    for key in changed:
        if key == "seed_everything" or key.startswith("model."):
            raise ValueError(
                f"{key.replace('.init_args', '')}: {new.get(key)}, but the run to resume has "
                f"{old.get(key)}. A resumed run keeps its model, optimizer, schedule and seed."
            )
    inexact = [key for key in changed if key.startswith(INEXACT) and not key.endswith(PACE)]
    for key in inexact if is_rank_zero() else []:
        name = key.replace(".init_args", "")
        text = (
            f"{name}: {new.get(key)}, before {old.get(key)}. The run ends otherwise than it would."
        )
        print(f"warning: {text}", file=sys.stderr, flush=True)
    schedule = now["model"].get("init_args", {}).get("lr_scheduler") or {}
    horizon = optim.HORIZON.get(str(schedule.get("name", "")).rpartition(".")[2])
    if horizon and horizon not in schedule and schedule.get("interval") is None:
        for key in ("trainer.max_epochs", "trainer.max_steps"):
            if key in changed:
                raise ValueError(
                    f"{key}: {new.get(key)}, but the schedule of the run to resume was made for "
                    f"{old.get(key)}. Train longer in a new run, or begin with "
                    f"model.lr_scheduler.{horizon} set."
                )


class MetricsCSV(Logger):
    """Write ``metrics.csv``: one row a step or epoch, columns added as metrics appear.

    Lightning's own deletes the file of an earlier run in the same folder; this one goes on with it.
    What a model logs as `step` or `epoch` sets the axis of TensorBoard, but no row apart here.

    Attributes:
        place: Tells the step and epoch at hand, for values that do not come with them.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.place: Callable[[], tuple[int, int]] | None = None
        self._columns = ["step", "epoch"]
        self._rows: list[dict[str, Any]] = []
        self._num_written = 0
        self._num_resumed = 0

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {**metrics, "step": step}
        # Lightning adds the epoch, an int, unless the model logs `step` or `epoch`: floats.
        if self.place is not None and not isinstance(row.get("epoch"), int):
            row["step"], row["epoch"] = self.place()
        step = row["step"]
        last = self._rows[-1] if len(self._rows) > self._num_written else {}
        if last.get("step") == step and not (set(last) & set(row)) - {"step", "epoch"}:
            last.update(row)  # readings of the same step
        else:
            self._rows.append(row)
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += sorted(new)
            self._num_written = 0  # the header changes: write it all again

    @rank_zero_only
    def save(self) -> None:
        if len(self._rows) == max(self._num_written, self._num_resumed):
            return
        fresh = self._num_written == 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = io.StringIO(newline="")
        writer = csv.DictWriter(lines, self._columns)
        if fresh:
            writer.writeheader()
        writer.writerows(self._rows[self._num_written :])
        if fresh:
            write_whole(self.path, lines.getvalue())
        else:
            with self.path.open("a", newline="") as file:
                file.write(lines.getvalue())
        self._num_written = len(self._rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return len(self._rows)

    @rank_zero_only
    def resume(self, num_rows: int) -> None:
        """Go on after the first ``num_rows`` rows of the file that is there."""
        if self.path.exists():
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                rows = [row for _, row in zip(range(num_rows), reader, strict=False)]
                self._columns = list(reader.fieldnames or self._columns)
            self._rows = [{k: v for k, v in row.items() if v != ""} for row in rows]
            self._num_resumed = len(self._rows)  # left alone until there is a new row
            self._num_written = 0


def last_metrics(folder: Path) -> dict[str, float]:
    """Read the last value of each metric in the ``metrics.csv`` of a run."""
    path = folder / "metrics.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {name: value for row in rows for name, value in row.items() if value}
    return {name: float(value) for name, value in found.items() if name not in ("step", "epoch")}


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, without its ``hparams.yaml``: that is in ``config.yaml``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)

        self._step: int | None = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # What is logged of a step in several parts has its epoch once.
        first, self._step = step != self._step, step
        super().log_metrics({k: v for k, v in metrics.items() if first or k != "epoch"}, step)

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Have TensorBoard leave out what was logged for ``step`` and later."""
        self.experiment.close()  # Lightning has begun a file already
        self._experiment = None
        self._kwargs["purge_step"] = step


class RunFiles(Callback):
    """Write what a run is and that it has begun, and resume its metrics.

    Args:
        folder: Folder of the run.
        config: The resolved configuration as YAML.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.config = config
        self.class_names: list[str] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.place = lambda: (readings.current_step(trainer), trainer.current_epoch)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        optim.follow_validation(trainer)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.class_names = getattr(data, "class_names", None)
        # By now a checkpoint to go on from has been read: what it refuses changes nothing here.
        dry: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer.is_global_zero and not dry:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "metrics.json").unlink(missing_ok=True)  # it says that a run is done
            write_whole(self.folder / "config.yaml", self.config)
            write_json(self.folder / "environment.json", environment(trainer))
            status.begin(self.folder)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers:
            logger.save()
            if isinstance(logger, MetricsCSV):
                checkpoint["metrics_rows"] = logger.num_rows
        if self.class_names:
            checkpoint["class_names"] = self.class_names

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for logger in trainer.loggers if trainer.state.fn == "fit" else []:
            if isinstance(logger, MetricsCSV):
                logger.resume(checkpoint.get("metrics_rows", 0))
            elif isinstance(logger, TensorBoard):
                logger.resume(checkpoint["global_step"])


def environment(trainer: Trainer) -> dict[str, Any]:
    """Describe where and how a run was started."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "command": " ".join(["python", "-m", *_module_and_args()]),
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changed": bool(_git("status", "--porcelain")),
        "device": f"{device.type} {name}".strip(),
        "num_devices": trainer.world_size,
        "num_cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "lightning": str(lightning.__version__),
        "packages": _versions(),
    }


def is_rank_zero() -> bool:
    """Tell whether this process is the one that writes, before there is a trainer."""
    rank: int = getattr(rank_zero_only, "rank", 0)  # from the variables a launcher sets
    return rank == 0


@contextmanager
def discarded_if_unused(folder: Path, steps: Callable[[], int]) -> Iterator[None]:
    """Remove a folder made in this block if the block fails before the first step."""
    existed = folder.exists()
    try:
        yield
    except BaseException:
        if not existed and steps() == 0 and is_rank_zero():
            shutil.rmtree(folder, ignore_errors=True)
            for parent in (folder.parent, folder.parent.parent):
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()
        raise


def print_table(
    title: str, rows: Iterable[tuple[str, ...]], columns: Sequence[str] = ("", "")
) -> None:
    """Print a table, the first of whose columns names what is in the others."""
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for number, name in enumerate(columns):
        table.add_column(name, style=None if number else "bold", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # In a pipe or a job's log no path is broken in two.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def format_value(value: float) -> str:
    """Write a metric with all digits that a float32 has."""
    return str(int(value)) if abs(value) < 1e9 and value == int(value) else f"{value:.7g}"


def _module_and_args() -> list[str]:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return [spec.name if spec else sys.argv[0], *sys.argv[1:]]


def _versions() -> dict[str, str]:
    """Versions of the packages that this process has imported."""
    versions = {name: vars(module).get("__version__") for name, module in sys.modules.items()}
    return {
        name: str(version)
        for name, version in sorted(versions.items())
        if version and "." not in name and name not in sys.stdlib_module_names
    }


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
