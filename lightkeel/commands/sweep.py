"""Search the options of an experiment: many runs, each a process of its own, with Optuna."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from ..errors.bad_input import Arguments, InputError
from ..project import Project
from ..runs import lock
from ..runs.files import write_whole
from ..runs.find import expand_home
from ..runs.output import streams_that_last
from ..runs.sweeps import PLAN, SWEEPS
from ..sweep import arguments, plan
from . import command


def main(project: Project, args: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE.sweep`` with ``args`` (default: the process's)."""
    with streams_that_last(), command(project, args) as given:
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
        with _working_in(folder, options.storage is not None):
            return _search(project, sweep, folder, options.storage, options.workers, given)


def _search(
    project: Project,
    sweep: plan.Sweep,
    folder: Path,
    url: str | None,
    workers: int,
    given: list[str],
) -> int:
    """Run a sweep in its folder, and return the status."""
    from ..sweep import database, study as studies, supervise  # Optuna: half a second
    from ..sweep.engines import try_out
    from ..sweep.progress import Progress
    from ..sweep.results import report, write_results

    place = database.file_address(folder) if url is None else database.address(url)
    studies.quiet()
    studies.check_same(sweep, place, folder)
    try_out(sweep.space, studies.sampler_of(sweep, 0), studies.pruner_of(sweep))
    if sys.stderr.isatty():  # it takes seconds
        print(f"{sweep.name}: looking at the experiment", file=sys.stderr, flush=True)
    probed = supervise.look(project, sweep)
    sweep = replace(sweep, metric=probed.metric, mode=probed.mode)
    study = studies.SweepStudy(sweep, place, url is None)
    write_whole(folder / PLAN, plan.as_yaml(sweep))
    with Progress() as progress:
        supervisor = supervise.Supervisor(project, sweep, probed, folder, study, workers, progress)
        status = supervisor.run()
        if status != 1:
            progress.say("writing results")
            write_results(study.study, sweep, folder)
    if status != 1:
        report(study.study, sweep, folder, url and database.without_password(place))
    if status:
        again = shlex.join(map(database.without_password, given))
        resume = f"resume: {project.command('sweep')} {again}"
        print(f"stopped: {folder}\n{resume}", file=sys.stderr, flush=True)
    return status or int(not study.has_value())


@contextmanager
def _working_in(folder: Path, is_shared: bool) -> Iterator[None]:
    """Make the folder of a sweep, and lock it unless it is shared; one that stays empty is removed.

    Raises:
        InputError: Another command has locked it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
        held = None if is_shared else lock.take(folder)
    except BlockingIOError:
        raise InputError(
            f"--name {folder.name}: {folder} is in use ({lock.holder(folder)}).\n"
            "Several commands share a sweep with --storage postgresql://user@host/name."
        ) from None
    except OSError as error:
        raise InputError(
            f"--runs_dir {folder.parents[1]}: a folder for {folder.name} cannot be written in it "
            f"({error.strerror}). Choose another --runs_dir or --name."
        ) from None
    try:
        yield
    finally:
        if held is not None:
            lock.release(folder, held)
            with suppress(OSError):  # there is something in it
                folder.rmdir()
                folder.parent.rmdir()
