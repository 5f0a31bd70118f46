"""Processes of a sweep: forked off one that has imported PyTorch, and thrown away after a run."""

import atexit
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors.bad_input import InputError, readable
from ..project import Project
from ..runs.output import streams_that_last
from .outcome import how_ended

# Of the library alone: what a project's own modules raise is to be said by a run. None may touch
# a GPU, as no forked process could use one then.
PRELOADED = [f"{__name__.partition('.')[0]}.fit.fit", "torch.utils.tensorboard"]
# Signals that a terminal or a job sends to all processes, to the exit statuses of the command.
STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 143}
GO_ON, STOP = "go on", "stop"
END_S = 5.0  # in which a process is gone that has closed its pipe


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function that can be pickled returns in a process of its own.

    Raises:
        InputError: The function has raised it.
        SystemExit: It has ended without an answer; how is said, after a traceback if it has one.
    """
    ours, theirs = multiprocessing.Pipe()
    process = _started(_answer, theirs, function, args)
    try:
        answer = ours.recv()
    except EOFError:
        process.join(END_S)
        how = how_ended(process.exitcode or 0)
        print(f"error: the look at the experiment: {how}.", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(answer, InputError):
        raise answer
    return answer


class RunProcess:
    """A run that trains in a process of its own, the first of its process group.

    It stops, and saves, where it is asked to, and where the process that started it is gone.

    Args:
        project: The project.
        args: Arguments of ``train``.
        metric: What it reports after each epoch; answer each report with ``go_on`` or ``stop``.
        log: File to which its output is appended.
        environment: Variables that are set in it.
    """

    def __init__(
        self,
        project: Project,
        args: Sequence[str],
        metric: str,
        log: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.process = _started(_run, theirs, project, [*args], metric, log, dict(environment))
        self.sentinel = self.process.sentinel
        self._is_stopped = False

    def reports(self) -> Iterator[tuple[int, float, bool]]:
        """Yield what has come in: epoch, value, and whether it was the last."""
        with suppress(EOFError, OSError):  # it has ended
            while self.connection.poll():
                yield self.connection.recv()

    def go_on(self) -> None:
        """Answer a report."""
        self._send(GO_ON)

    def stop(self) -> None:
        """Have it save and end; it does so once, however often it is asked to."""
        if not self._is_stopped:
            self._is_stopped = True
            self._send(STOP)

    def kill(self) -> None:
        """End it at once, with all processes that it has started."""
        try:
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        except ProcessLookupError:  # all gone, or it has just begun
            self.process.kill()

    def end(self, timeout_s: float | None = None) -> int:
        """Wait for its end, or kill it; return its exit status, negative for a signal."""
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.kill()
            self.process.join()
        status = self.process.exitcode
        if status:
            with suppress(ProcessLookupError):  # other ranks and workers of loaders
                os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.connection.close()
        return int(status or 0)

    def _send(self, answer: str) -> None:
        with suppress(OSError):  # it has ended
            self.connection.send(answer)


def environments(
    workers: int, num_gpus: int, environ: Mapping[str, str] = os.environ
) -> list[dict[str, str]]:
    """List what each of the workers sets for its runs: its GPU, and its share of the cores."""
    if workers == 1:
        return [{}]
    threads = max(1, count_cores() // workers)
    shared = {} if "OMP_NUM_THREADS" in environ else {"OMP_NUM_THREADS": str(threads)}
    given = environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = [name.strip() for name in given.split(",")] if given else [*map(str, range(num_gpus))]
    gpus = gpus[:num_gpus] or [given]
    chosen = [gpus[number % len(gpus)] for number in range(workers)]
    return [{**shared, **({"CUDA_VISIBLE_DEVICES": gpu} if num_gpus else {})} for gpu in chosen]


def count_cores() -> int:
    """Count the cores that this process may use."""
    is_known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if is_known else os.cpu_count() or 1


def _started(function: Callable[..., None], theirs: Connection, *args: Any) -> Any:
    """Start a process that alone holds the other end of a pipe."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=function, args=(theirs, *args))
    with _without_main():
        with _shielded():
            forkserver.ensure_running()
        process.start()  # waits for imports at the first time, where a signal may come
    theirs.close()
    return process


@contextmanager
def _without_main() -> Iterator[None]:
    """Have processes not import what was started here: it may be a script that starts a sweep."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _shielded() -> Iterator[None]:
    """Have the process that forks ignore the signals that a terminal or a job sends to all."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STATUSES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _begin() -> None:
    """Be in a group of its own, which Ctrl-C does not reach, and heed signals as usual."""
    os.setpgid(0, 0)
    for number in STATUSES:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _answer(theirs: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    _begin()
    try:
        answer = function(*args)
    except InputError as error:
        answer = InputError(str(error))  # without what cannot be pickled
    with suppress(OSError):  # whoever has asked is gone
        theirs.send(answer)


def _run(
    theirs: Connection,
    project: Project,
    args: list[str],
    metric: str,
    log: Path,
    environment: dict[str, str],
) -> None:
    _begin()
    _write_to(log)
    os.environ.update(environment)
    project.use()
    _be_command(project, args)
    answers = Answers(theirs)
    try:
        with streams_that_last(), readable():
            import torch

            from ..callbacks.sweep_report import SweepReport
            from ..fit.fit import train

            if "OMP_NUM_THREADS" in environment:  # PyTorch was imported before
                torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
            train(args, [SweepReport(metric, answers.ask)])
    finally:
        atexit._run_exitfuncs()  # loggers count on it; Python does not, of forked processes


def _write_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        os.dup2(file, number)
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.close(file)


def _be_command(project: Project, args: list[str]) -> None:
    """Look as the command ``train`` does: Lightning starts the ranks of other devices so."""
    name = f"{project.package}.train"
    spec = find_spec(name) if (project.folder / "train.py").is_file() else None
    sys.modules["__main__"].__spec__ = spec
    sys.argv[:] = [str(spec.origin if spec else project.root / "train.py"), *args]


class Answers:
    """What a sweep answers to the reports of a run.

    Where it says to stop, or is gone, this process sends itself SIGHUP, and never twice: the second
    signal of a kind ends it before it has saved. A job may send the others to all processes.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stops = False
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, epoch: int, value: float, is_last: bool) -> None:
        """Report a value, and wait for the answer."""
        with suppress(OSError):  # nobody is there, as the other thread is about to notice
            self.connection.send((epoch, value, is_last))
        if not self._stops:
            self._answers.get()

    def _listen(self) -> None:
        try:
            while self.connection.recv() == GO_ON:
                self._answers.put(GO_ON)
        except (EOFError, OSError):
            print("the sweep is gone: stopping", file=sys.stderr, flush=True)
        self._stops = True
        os.kill(os.getpid(), signal.SIGHUP)
        self._answers.put(STOP)
