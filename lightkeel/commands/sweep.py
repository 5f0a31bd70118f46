"""Search the options of an experiment: many runs, each a process of its own, with Optuna."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from ..errors.bad_input import Arguments, InputError
from ..project import Project
from ..runs import lock
from ..runs.files import write_whole
from ..runs.find import expand_home
from ..runs.sweeps import PLAN, SWEEPS
from ..sweep import arguments, plan
from . import command


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.sweep`` with ``args`` (default: the process's)."""
    with command(project, args) as given:
        known = Arguments(prog=project.command("sweep"), description=__doc__)
        known.epilog = f"All other options are those of {project.command('train')}."
        arguments.add_arguments(known)
        workers = "runs at once (default: 1)"
        known.add_argument("--workers", metavar="N", default=1, type=int, help=workers)
        shared = "database that several commands share, as postgresql://user@host/name"
        known.add_argument("--storage", metavar="URL", help=f"{shared} (default: a file)")
        known.add_argument("--runs_dir", default="runs", help="folder of all runs (default: runs)")
        own, passed = arguments.split(known, given)
        options = known.parse_args(own)
        if options.workers < 1:
            raise InputError(f"--workers {options.workers}: is not at least 1.")
        sweep = arguments.read_sweep(options, passed)
        if find_spec("optuna") is None:
            raise InputError(
                "sweep: needs the package optuna, which is not installed.\n"
                "Install it: make setup ADD=sweep"
            )
        folder = expand_home(options.runs_dir) / SWEEPS / sweep.name
        resume = f"{project.command('sweep')} {shlex.join(given)}"
        return _search(project, sweep, folder, options.storage, options.workers, resume)


def _search(
    project: Project, sweep: plan.Sweep, folder: Path, url: str | None, workers: int, resume: str
) -> int:
    """Run a sweep in its folder, which is locked unless a database is shared; return the status."""
    from ..sweep import study as studies, supervise  # Optuna: half a second
    from ..sweep.engines import try_out
    from ..sweep.progress import Progress
    from ..sweep.results import report, write_results

    url = url and studies.address(url)
    place = url or studies.file_address(folder)
    studies.quiet()
    if url or (folder / PLAN).is_file():  # before what takes seconds
        with nullcontext() if url else _locked(folder):
            studies.check_same(sweep, place)
    try_out(sweep.space, studies.sampler_of(sweep, 0), studies.pruner_of(sweep))
    if sys.stderr.isatty():  # it takes seconds
        print(f"{sweep.name}: looking at the experiment", file=sys.stderr, flush=True)
    probed = supervise.look(project, sweep)
    sweep = replace(sweep, metric=probed.metric, mode=probed.mode)
    folder.mkdir(parents=True, exist_ok=True)
    with nullcontext() if url else _locked(folder):
        study = studies.SweepStudy(sweep, place, not url)
        write_whole(folder / PLAN, plan.as_yaml(sweep))
        with Progress() as progress:
            supervisor = supervise.Supervisor(
                project, sweep, probed, folder, study, workers, progress
            )
            status = supervisor.run()
            if status != 1:
                progress.say("writing results")
                write_results(study.study, sweep, folder)
        if status != 1:
            report(study.study, sweep, folder, url)
    if status:
        print(f"stopped: {folder}\nresume: {resume}", file=sys.stderr, flush=True)
    return status or int(not study.has_value())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        held = lock.take(folder)
    except BlockingIOError:
        raise InputError(
            f"--name {folder.name}: {folder} is in use ({lock.holder(folder)}).\n"
            "Several commands share a sweep with --storage postgresql://user@host/name."
        ) from None
    try:
        yield
    finally:
        lock.release(folder, held)
