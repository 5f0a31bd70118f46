"""Sweeps that several commands share by a database: a real PostgreSQL, on loopback."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightkeel.runs import status
from tests.lightkeel.commands import experiment, finish, free_port
from tests.lightkeel.sweep.watched import at_work, members, start, trials, until

pytest.importorskip("optuna")
pytest.importorskip("psycopg2")
pytestmark = pytest.mark.extras

NAMES = [f"--grid=model.optimizer.lr=[{','.join(f'0.0{n}' for n in range(1, 5))}]", "--name=shared"]
LINE = [*experiment("linear_regression"), "--callbacks.plots=null", "--trainer.max_epochs=20"]


class Server:
    """A database server, by another user than root, which it refuses."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs, self.port = folder, programs, free_port()
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            other = pwd.getpwnam("nobody")
            os.chown(folder, other.pw_uid, other.pw_gid)
            self.user = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
        made = ["-D", f"{folder}/data", "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(
            [programs / "initdb", *made], check=True, capture_output=True, cwd=folder, **self.user
        )
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://tester@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        settings = ["fsync=off", "listen_addresses=127.0.0.1", f"port={self.port}"]
        settings += ["unix_socket_directories=", "log_min_messages=log"]
        options = [word for setting in settings for word in ("-c", setting)]
        self.process = subprocess.Popen(
            [self.programs / "postgres", "-D", f"{self.folder}/data", *options],
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            **self.user,
        )
        assert self.process.stderr is not None
        lines = iter(self.process.stderr.readline, "")
        assert any("ready to accept connections" in line for line in lines)

    def stop(self) -> None:
        """Stop at once, whoever is connected."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=30)


@pytest.fixture
def server() -> Iterator[Server]:
    found = shutil.which("initdb") or max(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=""
    )
    if not found:
        pytest.skip("no PostgreSQL here: its program initdb is in no folder of programs")
    folder = Path(tempfile.mkdtemp(prefix="postgres"))  # one that another user can enter
    try:
        made = Server(folder, Path(found).resolve().parent)
        yield made
        made.stop()
    finally:
        shutil.rmtree(folder)


def test_two_commands_one_of_which_is_killed(server: Server, tmp_path: Path) -> None:
    """Each trial is completed once, none is lost, and no process is left."""
    args = [*LINE, *NAMES, "--storage", server.url, "--runs_dir", str(tmp_path)]
    commands = [start(*args, module="tests.lightkeel.sweep.hasty") for _ in range(2)]
    killed, other = commands
    until(lambda: at_work(tmp_path, other))
    run = until(lambda: at_work(tmp_path, killed))
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    finish(other)
    until(lambda: not members(killed) and not members(other))

    url = server.url.replace("postgresql:", "postgresql+psycopg2:")
    found = trials(url, "shared")
    done = [trial for trial in found if trial.state.name == "COMPLETE"]
    tickets = [trial.user_attrs["ticket"] for trial in done]
    assert sorted(tickets) == [0, 1, 2, 3]
    assert sorted(t.params["model.optimizer.lr"] for t in done) == [0.01, 0.02, 0.03, 0.04]
    # Beside them there is the trial that was killed, which goes on under another number.
    (lost,) = [trial for trial in found if trial not in done]
    assert (lost.state.name, lost.user_attrs["runs"]) == ("FAIL", [f"linear_regression/{run.name}"])
    (again,) = [t for t in done if t.user_attrs["ticket"] == lost.user_attrs["ticket"]]
    assert again.params == lost.params
    assert len(again.intermediate_values) >= 19  # one may have been lost by the kill
    log = (run.parents[1] / f"logs/{run.name}.log").read_text()
    assert "the sweep is gone: stopping" in log
    assert log.count("resume: python -m src.train") == 1


def test_database_that_is_gone(server: Server, tmp_path: Path) -> None:
    """The command says so and ends, its run saved; the same command resumes."""
    args = [*LINE, *NAMES, "--storage", server.url, "--runs_dir", str(tmp_path)]
    command = start(*args, module="tests.lightkeel.sweep.hasty")
    run = until(lambda: at_work(tmp_path, command))
    server.stop()
    errors = finish(command, 1).splitlines()
    until(lambda: not members(command))
    assert errors[0].startswith("warning: the database of the sweep is gone (")
    assert errors[1] == f"stopped: {tmp_path}/sweeps/shared"
    assert len(errors) == 3
    assert (found := status.read(run)) is not None
    assert found.state == "stopped"
    server.start()
    finish(start(*args, module="tests.lightkeel.sweep.hasty"))
    done = trials(server.url.replace("postgresql:", "postgresql+psycopg2:"), "shared")
    tickets = [t.user_attrs["ticket"] for t in done if t.state.name == "COMPLETE"]
    assert sorted(tickets) == [0, 1, 2, 3]


def test_command_that_slept(server: Server, tmp_path: Path) -> None:
    """Its trial is taken by another command, which waits for its run to end, and resumes it."""
    args = [*LINE, "--grid=model.optimizer.lr=[0.01]", "--name=shared"]
    args += ["--storage", server.url, "--runs_dir", str(tmp_path)]
    asleep = start(*args, module="tests.lightkeel.sweep.hasty")
    run = until(lambda: at_work(tmp_path, asleep))
    os.kill(asleep.pid, signal.SIGSTOP)
    other = start(*args, module="tests.lightkeel.sweep.hasty")
    assert other.stderr is not None
    said = other.stderr.readline()
    assert said.startswith(f"warning: waiting for the run in {run} to end (process ")
    os.kill(asleep.pid, signal.SIGCONT)
    assert "warning: trial 000 was taken for dead, and is run again." in finish(asleep)
    finish(other)
    found = trials(server.url.replace("postgresql:", "postgresql+psycopg2:"), "shared")
    assert [t.state.name for t in found] == ["FAIL", "COMPLETE"]
    assert len(found[1].intermediate_values) >= 19  # one came too late
