"""The folder of a run: chosen, made and locked before anything else."""

import datetime
import os
import shlex
import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from ..errors.bad_input import InputError
from ..errors.checks import note
from . import lock
from .find import CHECKPOINTS, exists, expand_home, find_resumable


class Claim:
    """The folder of a run, held until the ``with`` statement ends; gone then unless ``keep``."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.keep = False
        self._made: list[Path] = []
        self._lock: int | None = None

    def choose(
        self, runs_dir: Path, experiment: str, run_name: str | None, resume: str | None
    ) -> Path | None:
        """Choose and lock a new folder, or that of a run to resume, whose checkpoint is returned.

        The first process of a run makes and locks it; the others are told where it is.
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
                found = self._take_unfinished(place, run_name) if is_auto else None
                if found is None:
                    self._make(place, run_name, is_auto)
                if is_auto and found is None:
                    note(f"--resume auto: nothing to resume. A new run begins: {self.folder}")
        except OSError as error:
            path, wrong = Path(error.filename or place), error.strerror
            if isinstance(error, FileExistsError):
                wrong = "is no folder" if path.exists() else "is a link to nothing"
            is_name = run_name is not None and path.name == run_name
            given = f"--run_name {run_name}" if is_name else f"--runs_dir {runs_dir}"
            how = f"Choose another {'name' if is_name else 'folder'}."
            raise InputError(f"{given}: {path} cannot be written ({wrong}). {how}") from None
        return found

    def _take_unfinished(self, place: Path, run_name: str | None) -> Path | None:
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
                self._made.insert(0, folder)
                break
            except FileExistsError:
                if run_name is not None and not folder.is_dir():
                    raise
        self._take(folder, f"--run_name {name}")
        there = {path.name for path in folder.iterdir()} - {lock.NAME}
        if there & {CHECKPOINTS, "metrics.json"} if again else there:
            raise InputError(
                f"--run_name {name}: {folder} exists. Choose another name, or resume it: "
                f"--resume {shlex.quote(str(folder))}"
            )

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


def is_rank_zero() -> bool:
    """Tell whether this process is the one that writes, before there is a trainer."""
    rank: int = getattr(rank_zero_only, "rank", 0)  # from the variables a launcher sets
    return rank == 0 and os.environ.get("NODE_RANK", "0") == "0"
