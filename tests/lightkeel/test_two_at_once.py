"""Runs that start at the same moment keep apart."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from lightkeel.errors.bad_input import InputError
from lightkeel.runs import lock
from lightkeel.runs.folder import Claim
from src.train import main as train
from tests.lightkeel.commands import fails
from tests.lightkeel.conftest import TINY

NUMBER = 8


def choose(barrier: Any, answers: Any, *choice: Any) -> None:
    """Choose a folder when all others do, and keep it until all have chosen."""
    with Claim() as claim:
        barrier.wait()
        try:
            claim.choose(*choice)
            answers.put((str(claim.folder), ""))
        except InputError as error:
            answers.put(("", str(error)))
        barrier.wait()


@pytest.mark.parametrize(
    ("run_name", "resume", "number"),
    [
        (None, None, NUMBER),
        pytest.param("x", None, 1, marks=pytest.mark.slow),
        ("x", "auto", 1),
        pytest.param(None, "auto", 1, marks=pytest.mark.slow),
    ],
)
def test_starts_at_once(
    run_name: str | None, resume: str | None, number: int, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(NUMBER), context.SimpleQueue()
    choice = (tmp_path / "runs", "tiny", run_name, resume)
    processes = [
        context.Process(target=choose, args=(barrier, answers, *choice)) for _ in range(NUMBER)
    ]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    folders = {folder for folder, _ in found if folder}
    refused = [error for _, error in found if error]
    assert (len(folders), len(refused)) == (number, NUMBER - number)
    given = f"--resume {resume}" if resume else f"--run_name {run_name}"
    for error in refused:
        assert error.startswith(f"{given}: {folders.copy().pop()} is still running (process ")
    # Nothing came of them; who came late has not made the folder of all runs.
    assert list(tmp_path.glob("*/*")) == []


def test_run_without_a_checkpoint_is_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The predecessor of a job may not have come as far when the job is started again."""
    args = [*TINY, "--runs_dir", str(tmp_path), "--resume", "auto"]
    with Claim() as claim:
        claim.choose(tmp_path, "tiny", None, None)
        assert claim.folder is not None
        who = lock.holder(claim.folder)
        fails(
            train,
            args,
            f"--resume auto: {claim.folder} is still running ({who}).\n"
            "  Stop it first, or begin another run: --run_name NAME",
            capsys,
        )
        assert [path.name for path in claim.folder.iterdir()] == [lock.NAME]
    assert train(args) == 0


def test_what_others_have_made_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with Claim() as first, Claim() as second:
        first.choose(tmp_path / "runs", "tiny", "a", None)
        second.choose(tmp_path / "runs", "tiny", "b", None)
        second.keep = True
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "tiny", "b"]
    with Claim() as first:
        first.choose(tmp_path / "runs", "other", "a", None)
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "tiny", "b"]
    with Claim() as first:
        first.choose(tmp_path / "runs", "tiny", "b", None)  # it holds nothing
    assert (tmp_path / "runs/tiny/b").is_dir()
