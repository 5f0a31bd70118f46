"""Where the configs and runs are that a command line names."""

import argparse
import os
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..errors.bad_input import InputError
from ..errors.checks import note, suggest
from ..project import current
from .sweeps import SWEEPS, experiment_of_best, read_sweep

CHECKPOINTS = "checkpoints"
FILES = ("config.yaml", "status.json", "metrics.csv", "metrics.json", "environment.json")
DOS_FOLDER = 0x10  # of the attributes of a file


class Run(NamedTuple):
    """A run found again: its folder (none for a lone file) and a checkpoint of it."""

    folder: Path | None
    checkpoint: Path

    def options(self, configs: Sequence[str] = (), needed: bool = True) -> list[str]:
        """List the options that build what was trained: its configuration, ``configs`` over it."""
        own = self.folder and self.folder / "config.yaml"
        found = [str(own), *configs] if own and own.is_file() else configs
        if needed and not found:
            text = "has no config.yaml beside it. Give the --config it was trained with."
            raise InputError(f"RUN {self.checkpoint}: {text}")
        return [text for config in found for text in ("--config", config)]


def expand_home(path: str | Path) -> Path:
    """Read ``~`` as a shell does, which leaves that of ``--runs_dir=~/runs`` as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - that of nobody is a name like any other


def exists(path: Path) -> bool:
    """Tell whether there is such a file or folder; of a name that is too long, there is none."""
    return os.path.exists(path)  # noqa: PTH110


def find_config(name: str, option: str = "--config") -> Path:
    """Find the file that ``--config NAME`` means: a path, or a name in ``configs/``."""
    configs = current().configs
    for path in (Path(name), Path(name, "config.yaml"), configs / f"{name}.yaml", configs / name):
        if exists(path) and path.is_file():
            return path
    known = sorted(str(p.relative_to(configs).with_suffix("")) for p in configs.rglob("*.yaml"))
    raise InputError(f"{option} {name}: no such config. {suggest(name, known, True)}")


def experiment_name(config: Path) -> str:
    """Name the experiment of a configuration: its file's, or its run's if a run saved it."""
    if (config.parent / "environment.json").exists():
        return config.resolve().parent.parent.name
    return experiment_of_best(config) or config.stem


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments by which a command is told of which run, and which checkpoint of it."""
    what = (
        "a run folder, a .ckpt file, EXPERIMENT/NAME in --runs_dir, EXPERIMENT for its newest run, "
        "or `last` for the newest of all"
    )
    parser.add_argument("run", metavar="RUN", help=what)
    best = "which checkpoint of a run folder (default: best)"
    parser.add_argument("--checkpoint", default="best", choices=("best", "last"), help=best)
    parser.add_argument("--runs_dir", default="runs", help="folder of all runs (default: runs)")


def find_run(spec: str, runs_dir: Path, checkpoint: str = "best", option: str = "RUN") -> Run:
    """Find a run by its folder, as it is or in ``runs_dir``, a .ckpt file, or ``last``: the newest.

    EXPERIMENT or EXPERIMENT/last is the newest of an experiment. Of a folder it is the checkpoint
    ``best``, or failing that ``last``.
    """
    path = expand_home("".join(line.strip() for line in spec.splitlines()))  # as it was pasted
    root = expand_home(runs_dir)
    names = ("best.ckpt", "last.ckpt")[checkpoint == "last" :]

    def chosen(place: Path) -> Path | None:
        files = [place / CHECKPOINTS / name for name in names] if exists(place) else []
        return next((file for file in (place, *files) if exists(file) and file.is_file()), None)

    places = [path, root / path]
    trials = filter(chosen, (sweep / path for sweep in sorted(root.glob(f"{SWEEPS}/*"))))
    found = [*filter(chosen, places)][:1] or [*trials] or _newest(spec, path, root, option)
    if len(found) > 1:
        text = f"is in several sweeps. Give one of these: {', '.join(map(str, found))}."
        raise InputError(f"{option} {spec}: {text}")
    if found and (file := chosen(found[0])):
        folder = file.parent.parent
        is_of_run = file != found[0] or (folder / "config.yaml").exists()
        return Run(folder if is_of_run else None, file)
    raise InputError(f"{option} {spec}: {_missing(spec, [*found, *places], runs_dir)}")


def _missing(spec: str, places: Sequence[Path], runs_dir: Path) -> str:
    if spec == "last":
        return f"there is no run in {runs_dir}. Train one first."
    folder = next((place for place in places if exists(place) and place.is_dir()), None)
    if folder is None:
        known = [str(path) for path in expand_home(spec).parent.glob("*") if os.sep in spec]
        known = known or [f"{run.parent.name}/{run.name}" for run in list_runs(runs_dir)[:5]]
        how = "Give a run folder, EXPERIMENT/NAME, a .ckpt file, or `last`."
        return f"no such file or folder. {how}\n{suggest(spec, known)}"
    if best := read_sweep(folder).best:
        return f"is a sweep. Give one of its runs; the best is {folder / best['run']}."
    return f"no checkpoint in {folder / CHECKPOINTS}."


def _newest(spec: str, path: Path, root: Path, option: str) -> list[Path]:
    """Find the newest run of all or of an experiment, and say which where one may be surprised."""
    if path == Path("last"):
        return list_runs(root)[:1]
    is_last = path.name == "last"
    for place in (path, root / path):
        folder = place.parent if is_last else place
        if exists(folder) and (runs := list_runs(folder, "*")):
            if len(runs) > 1 and not is_last:
                note(f"{option} {spec}: has {len(runs)} runs. This is the newest, {runs[0]}.")
            return runs[:1]
    return []


def check_output(output: Path) -> None:
    """Raise ``InputError`` where an output cannot be written, or would destroy a file of a run."""
    folder = output.absolute().parent
    if output.is_dir() or not folder.is_dir():
        wrong = "is a folder" if output.is_dir() else f"there is no folder {output.parent}"
        raise InputError(f"--output {output}: {wrong}. Give the name of a file.")
    is_of_run = output.name in FILES and (folder / "config.yaml").exists()
    if output.exists() and (is_of_run or folder.name == CHECKPOINTS):
        raise InputError(f"--output {output}: is a file of a run. Choose another.")


def damage(path: Path) -> str | None:
    """Say what is wrong with an archive of torch, whose parts have checksums; None: it is whole."""
    return _damage(path, path.stat().st_size, path.stat().st_mtime_ns)


@cache
def _damage(path: Path, size: int, mtime_ns: int) -> str | None:
    try:
        with zipfile.ZipFile(path) as file:
            parts = file.infolist()
            stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
            if not stored or sum(part.file_size for part in parts) > size:
                return "compressed, and may unpack to any size"
            # Of two with one name one is not tested; a folder is read as nothing.
            names = {part.filename for part in parts if not part.external_attr & DOS_FOLDER}
            if len(names) < len(parts):
                return "a part is there twice, or as a folder"
            damaged = file.testzip()
    except Exception as error:  # noqa: BLE001 - whatever reading a damaged one may raise
        return str(error) or type(error).__name__
    return f"bad checksum of {damaged}" if damaged else None


def list_runs(runs_dir: Path, places: str = "*/*") -> list[Path]:
    """List the folders of runs that have a checkpoint, newest first."""
    checkpoints = expand_home(runs_dir).glob(f"{places}/{CHECKPOINTS}/*.ckpt")
    found = {path.parent.parent / "config.yaml" for path in checkpoints}
    configs = [config for config in found if config.exists()]
    configs.sort(key=lambda config: config.stat().st_mtime, reverse=True)
    return [config.parent for config in configs]


def find_resumable(spec: str, runs_dir: Path, experiment: str, run_name: str | None) -> Path | None:
    """Find the checkpoint that ``--resume`` means; None: ``auto`` finds no run that is not done."""
    if spec == "auto":
        for folder in list_runs(runs_dir):
            is_meant = folder.parent.name == experiment and run_name in (None, folder.name)
            if is_meant and not (folder / "metrics.json").exists():
                return newest_whole(folder)
        return None
    found = find_run(spec, runs_dir, option="--resume")
    if found.folder is None:
        raise InputError(f"--resume {spec}: belongs to no run folder with a config.yaml.")
    return found.checkpoint if Path(spec).suffix == ".ckpt" else newest_whole(found.folder)


def newest_whole(folder: Path) -> Path:
    """Find ``last.ckpt`` of a run or, where that is damaged, the newest checkpoint that is not."""
    paths = [*(folder / CHECKPOINTS).glob("*.ckpt")]
    paths.sort(key=lambda path: (path.name == "last.ckpt", path.stat().st_mtime), reverse=True)
    if whole := next((path for path in paths if not damage(path)), None):
        return whole
    wrong = "; ".join(f"{path.name}: {damage(path)}" for path in paths)
    raise InputError(f"--resume {folder}: no checkpoint is whole ({wrong}).\nBegin a new run.")
