"""What a sweep leaves in its folder and says of it, of trials that are made up and of real runs."""

import csv
import shlex
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

optuna = pytest.importorskip("optuna")

from matplotlib import image, pyplot as plt  # noqa: E402

from lightkeel.runs import output  # noqa: E402
from lightkeel.runs.find import experiment_name  # noqa: E402
from lightkeel.sweep.results import report, write_results, write_trials  # noqa: E402
from src.evaluate import main as evaluate  # noqa: E402
from src.train import main as train  # noqa: E402
from tests.lightkeel.commands import same  # noqa: E402
from tests.lightkeel.conftest import TINY  # noqa: E402
from tests.lightkeel.sweep.made import (  # noqa: E402
    LR,
    MOMENTUM,
    NAME,
    POINTS,
    SPACE,
    WIDTHS,
    add,
    study,
    sweep,
)

pytestmark = pytest.mark.extras

PICTURES = ["plots/history.png", "plots/importances.png", "plots/slice.png"]
TWO = [PICTURES[0], PICTURES[2]]


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.splitlines()


def test_trials(tmp_path: Path) -> None:
    """A row for each ticket, settings as on the command line, with all their digits."""
    made = study()
    add(made, 0, value=0.1 + 0.2, seconds=62.5, values=[0.1, 0.2], error=None)
    add(made, 1, "FAIL", error="stopped")
    add(made, 2, "FAIL", error='of "many,\nlines', params={LR: 0.01}, seconds=5)
    add(made, 3, "WAITING", runs=[])
    add(made, 1, "RUNNING", error="stopped", runs=["tiny/001-s4", "tiny/001-s5"])
    write_trials(made, sweep(seeds=2), tmp_path)
    usual = dict.fromkeys(["value", "value_0", "value_1", *SPACE, "duration_s", "run", "error"], "")
    first = {"value": "0.30000000000000004", "value_0": "0.1", "value_1": "0.2", "run": "tiny/000"}
    point = {LR: "0.001", NAME: "SGD", MOMENTUM: "0.5", WIDTHS: "[6]", "duration_s": "62.5"}
    running = {LR: "0.0031622776601683794", NAME: "AdamW", WIDTHS: "[6, 12]", "run": "tiny/001-s4"}
    failed = {LR: "0.01", "error": 'of "many,\nlines', "run": "tiny/002", "duration_s": "5.0"}
    found = rows(tmp_path)
    for row in found:
        row["duration_s"] = row["duration_s"] and str(round(float(row["duration_s"]), 1))
    assert found == [
        {**usual, "trial": "000", "state": "done", **first, **point},
        {**usual, "trial": "001", "state": "running", **running},
        {**usual, "trial": "002", "state": "failed", **failed},
        {**usual, "trial": "003", "state": "waiting"},
    ]
    write_trials(made, sweep(), tmp_path)
    assert [*rows(tmp_path)[0]] == ["trial", "state", "value", *SPACE, "duration_s", "run", "error"]


def results(folder: Path, *values: float | None, mode: str = "max", **options: Any) -> list[str]:
    """Write the results of trials with these values, None: failed, and return the files."""
    made = study(mode)
    for ticket, value in enumerate(values):
        state = "FAIL" if value is None else "COMPLETE"
        params = options.get("params", POINTS)[ticket]
        add(made, ticket, state, value, error="wrong" if value is None else None, params=params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_results(made, sweep(mode=mode), folder)
    return written(folder)


@pytest.mark.parametrize(
    ("values", "params", "pictures"),
    [
        ([0.1, 0.3, 0.2, 0.4], POINTS, PICTURES),
        ([0.5], POINTS, TWO),
        ([0.5, 0.5, 0.5, 0.5], POINTS, PICTURES),
        ([None, 0.5, 0.75], [{LR: lr, NAME: "SGD"} for lr in (0.001, 0.01, 0.1)], TWO),
        ([0.5, 0.75], [{}, {}], TWO),
        ([1e-4, 1e38, 5.0, 0.0], POINTS, PICTURES),
    ],
    ids=["all", "one", "equal", "one option", "no option", "diverged"],
)
def test_pictures(
    values: list[Any],
    params: Any,
    pictures: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a warning, and nothing is printed; no importance of what was not varied."""
    assert results(tmp_path, *values, params=params, mode="min") == [*pictures, "trials.csv"]
    assert capsys.readouterr() == ("", "")
    assert plt.get_fignums() == []
    for name in pictures:
        height, width, _ = image.imread(tmp_path / name).shape
        assert min(height, width) >= 400


@pytest.mark.parametrize(
    ("values", "scale"), [((0.5, 50.5), "log"), ((0.5, 50.0), "linear"), ((-0.5, 50.5), "linear")]
)
def test_pictures_are_of_tickets(
    values: tuple[float, float], scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each what counts, under its number; values that are far apart are told apart."""
    made = study()
    for ticket in (0, 1, 2):
        add(made, ticket, "FAIL", error="stopped")
    add(made, 3, "FAIL", error="of many")
    for ticket, value in ((2, values[1]), (1, values[0])):
        add(made, ticket, value=value)
    add(made, 0, "RUNNING")
    with monkeypatch.context() as patch:
        patch.setattr(plt, "close", lambda: None)
        write_results(made, sweep(), tmp_path)
    history, _, slices = [plt.figure(number).axes for number in (1, 3, 2)]
    plt.close("all")
    drawn: Any = history[0].collections[0].get_offsets()
    assert drawn.tolist() == [[1, values[0]], [2, values[1]]]
    assert {tick % 1 for tick in history[0].get_xticks()} == {0}
    *shown, colours = slices
    assert [axes.get_xlabel() for axes in shown] == sorted(SPACE)
    assert {axes.get_yscale() for axes in (*history, *shown)} == {scale}
    assert (colours.get_ylabel(), colours.get_yscale()) == ("Trial", "linear")
    assert [tick for tick in colours.get_yticks() if 1 <= tick <= 2] == [1, 2]


def test_there_is_no_picture_of_nothing(tmp_path: Path) -> None:
    assert results(tmp_path, None, None) == ["trials.csv"]


def test_a_picture_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As importances do without scikit-learn, which older versions of Optuna need."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ImportError("Please install scikit-learn.\nNow.")

    monkeypatch.setattr(optuna.visualization.matplotlib, "plot_param_importances", fail)
    assert results(tmp_path, 0.1, 0.2, 0.3) == [PICTURES[0], PICTURES[2], "trials.csv"]
    assert capsys.readouterr().err == (
        "warning: plots/importances.png failed (ImportError: Please install scikit-learn.); "
        "nothing else depends on it.\n"
    )


@pytest.fixture(scope="module")
def best_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a sweep in which the run of trial 001 is, with its second seed, not to change."""
    runs = tmp_path_factory.mktemp("runs")
    where = ["--runs_dir", str(runs / "sweeps/made"), "--run_name", "001-s3"]
    settings = [f"--{LR}=0.0031622776601683794", "--seed_everything=3"]
    assert train([*TINY, *settings, *where]) == 0
    return runs / "sweeps/made"


def test_best_is_repeated_bit_for_bit(
    best_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run of its own, of the same experiment, and not as a trial of the sweep."""
    folder = tmp_path / "runs with a space/sweeps/made"
    shutil.copytree(best_run, folder)
    made = study()
    for ticket, value in enumerate([0.5, 0.75, 0.25]):
        add(made, ticket, value=value, runs=[f"tiny/{ticket:03}-s3", f"tiny/{ticket:03}-s4"])
    write_results(made, sweep(seeds=2), folder)
    text = (folder / "best.yaml").read_text()
    assert text.startswith(
        "# Trial 001, the best of the sweep made: val/acc 0.75\n"
        f"# {LR}=0.003162, {NAME}=AdamW, {WIDTHS}=[6, 12]\n"
    )
    own = yaml.safe_load((folder / "tiny/001-s3/config.yaml").read_text())
    assert yaml.safe_load(text) == {**own, "runs_dir": str(folder.parent.parent)}
    assert experiment_name(folder / "best.yaml") == "tiny"
    shutil.copy(folder / "best.yaml", tmp_path / "tuned.yaml")
    assert experiment_name(tmp_path / "tuned.yaml") == "tuned"
    assert train(["--config", str(folder / "best.yaml"), "--run_name", "again"]) == 0
    again = tmp_path / "runs with a space/tiny/again"
    assert same(again, folder / "tiny/001-s3")
    capsys.readouterr()
    report(made, sweep(seeds=2), folder)
    (said,) = [line for line in lines(capsys) if line.startswith("Evaluate it: ")]
    assert evaluate(shlex.split(said)[-1:]) == 0


def test_best_is_on_another_machine(
    best_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is here of a trial that is no longer the best goes."""
    folder = tmp_path / "made"
    shutil.copytree(best_run, folder)
    made = study()
    add(made, 1, value=0.5, runs=["tiny/001-s3"])
    write_results(made, sweep(), folder)
    assert (folder / "best.yaml").exists()
    add(made, 2, value=0.75)
    write_results(made, sweep(), folder)
    assert not (folder / "best.yaml").exists()
    capsys.readouterr()
    report(made, sweep(), folder, "postgresql://me:no@host/db")
    assert lines(capsys)[-3:] == [
        f"Written in {folder}: trials.csv, plots/history.png, plots/importances.png, "
        "plots/slice.png",
        f"Run of the best trial: {folder}/tiny/002 is not on this machine, so there is no "
        "best.yaml.",
        "Look at all trials: optuna-dashboard 'postgresql://me:***@host/db'",
    ]


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = study()
    for ticket, value in enumerate([0.4, 0.5, 0.6, 0.8, 0.7, 0.9]):
        add(made, ticket, value=value, values=[value + 0.1, value - 0.1])
    for ticket in range(6, 19):
        add(made, ticket, "FAIL", error="CUDA out of memory")
    add(made, 19, "FAIL", error="the loss of optimizer step 3 is nan.")
    add(made, 20, "PRUNED", value=0.99)
    add(made, 21, "RUNNING")
    write_results(made, sweep(seeds=2), tmp_path)
    report(made, sweep(seeds=2), tmp_path)
    found = lines(capsys)
    assert [line.split() for line in found[:2]] == [
        ["val/acc"],
        ["run", "mean", "±", "sd", "(n)", "settings"],
    ]
    assert [line.split("  ")[0] for line in found[3:8]] == [f"tiny/00{n}" for n in (5, 3, 4, 2, 1)]
    assert " ".join(found[3].split()) == (
        f"tiny/005 0.9 ± 0.14 (2) {LR}=0.003162, {NAME}=AdamW, {WIDTHS}=[6, 12]"
    )
    assert found[8:12] == [
        "",
        "Trials of made: 14 failed, 6 done, 1 pruned, 1 running",
        "13 failed: CUDA out of memory",
        "1 failed: the loss of optimizer step 3 is nan.",
    ]
    assert found[-1] == f"Look at all trials: optuna-dashboard sqlite:///{tmp_path}/study.db"


def test_the_table_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As wide as the terminal, and no number is cut; nor is a command."""
    monkeypatch.setattr(output, "PIPE_WIDTH", 80)
    made, folder = study(), tmp_path / "runs with a space"
    folder.mkdir()
    (folder / "best.yaml").touch()
    add(made, 2, value=1.2345678e-05, values=[1.2345678e-05, 0.0], runs=["tiny/002-s7"])
    report(made, sweep(seeds=2), folder)
    found = lines(capsys)
    table = found[: found.index("")]
    assert found[-4:] == [
        f"Run of the best trial with its first seed: {folder}/tiny/002-s7",
        f"Evaluate it: python -m src.evaluate '{folder}/tiny/002-s7'",
        f"Train it anew: python -m src.train --config '{folder}/best.yaml'",
        f"Look at all trials: optuna-dashboard 'sqlite:///{folder}/study.db'",
    ]
    assert max(map(len, table)) <= 80
    for part in ("tiny/002 ", "1.2346e-05 ± 8.7e-06 (2)", "lr=0.01", "momentum=0.9"):
        assert part in "\n".join(table)


def test_nothing_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = study()
    add(made, 0, "FAIL", error="\x1b[31mof\nlines")
    write_results(made, sweep(), tmp_path)
    report(made, sweep(), tmp_path)
    assert lines(capsys) == [
        "Trials of made: 1 failed",
        "1 failed: �[31mof�lines",
        f"Written in {tmp_path}: trials.csv",
        f"Look at all trials: optuna-dashboard sqlite:///{tmp_path}/study.db",
    ]
