"""The command ``sweep`` around the engine: where it works, and what it says."""

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.extras
pytest.importorskip("optuna", reason="needs optuna")

from sqlalchemy.exc import IntegrityError  # noqa: E402

from lightkeel.commands import sweep as command  # noqa: E402
from lightkeel.errors.bad_input import InputError  # noqa: E402
from lightkeel.sweep import database, supervise  # noqa: E402
from lightkeel.sweep.plan import Probed  # noqa: E402
from src.sweep import main  # noqa: E402
from tests.lightkeel.commands import fails, finish, forked  # noqa: E402
from tests.lightkeel.sweep.test_plan import TINY_CONFIG  # noqa: E402

ARGS = ["--config", TINY_CONFIG, "--seeds=2", "--name=tried"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "--storage nonsense: is no address of a database"),
        (
            "postgresql://a:secret@127.0.0.1:1/x",
            "--storage postgresql+psycopg2://a:***@127.0.0.1:1/x: cannot be used (connection",
        ),
        (
            "postgresql://a:secret@127.0.0.1:99x/x",
            "--storage postgresql://a:***@127.0.0.1:99x/x: is no address of a database",
        ),
        (
            "postgresql://127.0.0.1:1/x?user=a&password=secret&connect_timeout=1",
            "--storage postgresql+psycopg2://127.0.0.1:1/x?connect_timeout=1&password=***&user=a: "
            "cannot be used (connection",
        ),
        ("nosuch://a:secret@b/x", "--storage nosuch://a:***@b/x: needs a package"),
        ("sqlite:///x.db", "--storage sqlite:///x.db: is a file, which several"),
    ],
)
def test_no_such_database(url: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        database.connected(database.address(url))
    assert str(error.value).startswith(message)
    assert "secret" not in str(error.value)


def test_database_whose_tables_another_command_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def made(url: str, **settings: int) -> str:
        tries.append(url)
        if len(tries) < 3 or url == "never":
            raise IntegrityError("CREATE TABLE", None, Exception("it exists"))
        return "storage"

    monkeypatch.setattr(database, "RDBStorage", made)
    assert str(database.connected("postgresql://a@b/x")) == "storage"
    with pytest.raises(InputError, match=r"^--storage never: cannot be used \(it exists\)\.$"):
        database.connected("never")
    assert len(tries) == 6


def test_folders_that_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the look, which takes seconds; and nothing is left of a sweep that is refused."""
    monkeypatch.delattr(supervise, "look")
    (tmp_path / "file").touch()
    how = "Choose another --runs_dir or --name."
    cannot = "a folder for tried cannot be written in it"
    wrong = f"--runs_dir {tmp_path}/file: {cannot} (Not a directory). {how}"
    fails(main, [*ARGS, f"--runs_dir={tmp_path}/file"], wrong, capsys)
    name = "n" * 300
    wrong = f"--runs_dir {tmp_path}: {cannot} (File name too long). {how}".replace("tried", name)
    fails(main, [*ARGS, f"--name={name}", f"--runs_dir={tmp_path}"], wrong, capsys)
    wrong = "pruner: Optuna has no Meridian. Did you mean `MedianPruner`? Available: …"
    fails(main, [*ARGS, "--pruner=Meridian", f"--runs_dir={tmp_path}/new"], wrong, capsys)
    assert [*(tmp_path / "new").iterdir()] == []


def test_resume_line_has_no_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database.file_address(tmp_path)
    monkeypatch.setattr(database, "address", lambda given: url)
    probed = Probed("val/loss", "min", 0, "tiny", 0)
    monkeypatch.setattr(supervise, "look", lambda project, sweep: probed)
    monkeypatch.setattr(supervise.Supervisor, "run", lambda self: 143)
    args = ["--seeds=2", "--name=tried", f"--runs_dir={tmp_path}", "--config", TINY_CONFIG]
    assert main([*args, "--storage=postgresql://me:secret@host/x"]) == 143
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"stopped: {tmp_path}/sweeps/tried",
        f"resume: python -m src.sweep {' '.join(args)} '--storage=postgresql://me:***@host/x'",
    ]


def test_output_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*args: object) -> int:
        for _ in range(3):
            print("trial 000", flush=True)
        (tmp_path / "done").touch()
        return 0

    monkeypatch.setattr(command, "_search", search)
    read, write = os.pipe()
    os.close(read)
    process = forked("-m", "src.sweep", *ARGS, f"--runs_dir={tmp_path}", stdout=write)
    os.close(write)
    assert finish(process) == ""
    assert (tmp_path / "done").is_file()
