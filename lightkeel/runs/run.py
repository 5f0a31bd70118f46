"""The folder of a run: its name, what is written there, and how it is found again."""

import csv
import datetime
import io
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table

from ..errors.bad_input import InputError
from ..errors.checks import warn
from ..project import current
from . import lock
from .files import is_terminal, naming, standard_output, write_out, write_whole
from .find import CHECKPOINTS, exists, expand_home, find_resumable


class Claim:
    """The folder of a run: chosen, made and locked, and removed where nothing came of it.

    A ``with`` statement ends it. The first process of a run makes and locks the folder; the others
    are told where it is.

    Attributes:
        folder: The folder.
        keep: Whether a folder that was made for this run stays.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.keep = False
        self._made: list[Path] = []
        self._lock: int | None = None

    def choose(
        self, runs_dir: Path, experiment: str, run_name: str | None, resume: str | None
    ) -> Path | None:
        """Choose a new folder, or that of a run to resume, and lock it.

        Args:
            runs_dir: Folder of all runs.
            experiment: Name of the experiment.
            run_name: Name of the run; the time where not given.
            resume: What ``--resume`` says.

        Returns:
            The checkpoint to resume from, if any.

        Raises:
            InputError: The name is taken, or no plain name; the run is in use by another process;
                a folder cannot be written.
        """
        place, is_auto = expand_home(runs_dir) / experiment, resume == "auto"
        if not is_rank_zero() or (resume and not is_auto):
            found = find_resumable(resume, runs_dir, experiment, run_name) if resume else None
            self.folder = found.parent.parent if found else place
            if is_rank_zero():
                self._take(self.folder, f"--resume {resume}")
            return found
        if run_name is not None and (run_name in ("", ".", "..") or {*run_name} & {"/", "\0"}):
            raise InputError(f"--run_name {run_name!r}: is not the name of a folder.")
        try:
            str(place / (run_name or "")).encode()
        except UnicodeEncodeError:
            text = "holds bytes that are no text here. Choose another name, or a UTF-8 locale."
            raise InputError(f"--runs_dir {place}: {text}") from None
        self._made = [place, *(path for path in place.parents if not exists(path))]
        try:
            with lock.alone(place):
                found = self._unfinished(place, run_name) if is_auto else None
                if found is None:
                    self._make(place, run_name, is_auto)
        except OSError as error:
            path = Path(error.filename or place)
            wrong = error.strerror
            if isinstance(error, FileExistsError):
                wrong = "is no folder" if path.exists() else "is a link to nothing"
            is_name = run_name is not None and path.name == run_name
            given = f"--run_name {run_name}" if is_name else f"--runs_dir {runs_dir}"
            how = f"Choose another {'name' if is_name else 'folder'}."
            text = f"{given}: {path} cannot be written ({wrong}). {how}"
            raise InputError(text) from None
        return found

    def _unfinished(self, place: Path, run_name: str | None) -> Path | None:
        """Find what ``--resume auto`` means, and lock it, unless such a run is under way."""
        for folder in place.iterdir() if run_name is None else [place / run_name]:
            if lock.is_held(folder):
                raise in_use("--resume auto", folder)
        found = find_resumable("auto", place.parent, place.name, run_name)
        if found is not None:
            self._take(found.parent.parent, "--resume auto")
        return found

    def _make(self, place: Path, run_name: str | None, again: bool) -> None:
        """Make a folder, or take one that holds nothing; or, ``again``, no checkpoint."""
        now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        names = (f"{now}_{number}" if number > 1 else now for number in count(1))
        for name in names if run_name is None else [run_name]:
            folder = place / name
            try:
                folder.mkdir()
            except FileExistsError:
                if run_name is None:
                    continue
                if not folder.is_dir():
                    raise
            else:
                self._made.insert(0, folder)
            self._take(folder, f"--run_name {name}")
            there = {path.name for path in folder.iterdir()} - {lock.NAME}
            if there & {CHECKPOINTS, "metrics.json"} if again else there:
                raise InputError(
                    f"--run_name {name}: {folder} exists. Choose another name, or resume it: "
                    f"--resume {shlex.quote(str(folder))}"
                )
            return

    def _take(self, folder: Path, given: str) -> None:
        self.folder = folder
        try:
            self._lock = lock.take(folder)
        except BlockingIOError:
            raise in_use(given, folder) from None
        except OSError as error:
            wrong = f"{folder} cannot be written ({error.strerror})"
            raise InputError(f"{given}: {wrong}.") from None

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        discarded = [] if self.keep else self._made
        if self.folder in discarded:
            with lock.alone(self.folder.parent):
                shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder is not None and self._lock is not None:
            lock.release(self.folder, self._lock)
        for parent in discarded:
            with suppress(OSError):  # another run is in it
                parent.rmdir()


def in_use(given: str, folder: Path) -> InputError:
    """Say that a process that lives has locked the folder of a run."""
    return InputError(
        f"{given}: {folder} is still running ({lock.holder(folder)}).\n"
        "Stop it first, or begin another run: --run_name NAME"
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
        self._num_written = 0  # unless it is written whole, it is written anew
        if fresh:
            write_whole(self.path, lines.getvalue())
        else:
            with naming(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(lines.getvalue())
        self._num_written = len(self._rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if status == "success":  # else a row that could not be written would fail again
            self.save()

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return len(self._rows)

    @rank_zero_only
    def resume(self, num_rows: int) -> None:
        """Go on after the first ``num_rows`` rows of the file that is there."""
        if self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                rows = [row for _, row in zip(range(num_rows), reader, strict=False)]
                self._columns = list(reader.fieldnames or self._columns)
            self._rows = [{k: v for k, v in row.items() if v != ""} for row in rows]
            self._num_resumed = len(self._rows)  # left alone until there is a new row
            self._num_written = 0


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


@contextmanager
def writing_aside() -> Iterator[None]:
    """Have Python not print what fails in TensorBoard's thread, which its next call raises."""
    before = threading.excepthook

    def print_others(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            before(args)

    threading.excepthook = print_others
    try:
        yield
    finally:
        threading.excepthook = before


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
    return rank == 0 and os.environ.get("NODE_RANK", "0") == "0"


@contextmanager
def tolerated(what: str) -> Iterator[None]:
    """Say in one line that a part has failed that a run can do without, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the results
        reason = next(iter(str(error).splitlines()), "")
        text = f"{what} failed ({type(error).__name__}: {reason}); nothing else depends on it."
        warn(text)


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
    console = Console(width=None if is_terminal() else 160)
    with standard_output(), console.capture() as drawn:
        console.print(table)
    write_out(drawn.get())


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
        done = subprocess.run(
            ["git", *args], cwd=current().root, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
