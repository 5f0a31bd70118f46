"""Predictions for rows of CSV files, by the command and in Python."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightkeel.project import Project, current
from lightkeel.use import predictions as prediction
from lightkeel.use.predictor import Predictor, load
from src import predict
from tests.lightkeel.commands import fails, finish, forked
from tests.lightkeel.places import ROOT
from tests.lightkeel.tiny import TinyModel

ROWS = [[2.0, 0.0, 0.0, 0.5], [0.0, 2.0, 0.0, -0.5], [0.0, 0.0, 2.0, 1e-3]]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three rows that are right, between some that are not."""
    path = tmp_path / "rows.csv"
    good = [",".join(map(str, row)) for row in ROWS]
    odd = ["", "1,2,x,4", "1,2", "1,nan,3,4", "1,2,3,1e39"]
    path.write_text("\n".join(["a,b,c,d", good[0], *odd, good[1], good[2], ""]))
    return path


def expected(run: Path) -> Tensor:
    """What the model itself gives for ``ROWS``, without any of the code in question."""
    model = TinyModel.load_from_checkpoint(run / "checkpoints/best.ckpt", weights_only=True).eval()
    with torch.no_grad():
        probabilities: Tensor = model(torch.tensor(ROWS)).softmax(1)
    return probabilities


def printed(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    assert predict.main(args) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_rows(tiny_run: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed([str(tiny_run), str(table), "--batch_size", "2", "--top_k", "3"], capsys)
    rows = list(csv.DictReader(io.StringIO(out)))
    names = ["label", "probability", "label_2", "probability_2", "label_3", "probability_3"]
    assert list(rows[0]) == ["file", "row", *names, "error"]
    assert [row["row"] for row in rows] == ["1", "2", "3", "4", "5", "6", "7"]
    assert {row["file"] for row in rows} == {str(table)}
    assert [row["error"] for row in rows] == [
        "",
        "'x' is no finite number",
        "it has 2 columns, too few: the first row has 4",
        "'nan' is missing",
        "'1e39' is no finite number",
        "",
        "",
    ]
    right = [row for row in rows if not row["error"]]
    for row, wanted in zip(right, expected(tiny_run), strict=True):
        found = {row[f"label{n}"]: float(row[f"probability{n}"]) for n in ("", "_2", "_3")}
        assert [found[str(label)] for label in range(3)] == pytest.approx(wanted.tolist(), rel=1e-6)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    assert all(row["label"] == "" for row in rows if row["error"])
    assert err == "warning: 4 of 7 could not be read: see `error` in their rows.\n"


def test_json_lines(
    tiny_run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    assert printed([str(tiny_run), str(table), "--output", str(output)], capsys)[0] == ""
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    best = expected(tiny_run).max(1)
    assert rows[0] == {
        "file": str(table),
        "row": 1,
        "label": str(int(best.indices[0])),
        "probability": pytest.approx(float(best.values[0]), rel=1e-6),
    }
    assert rows[1] == {"file": str(table), "row": 2, "error": "'x' is no finite number"}


def test_columns_by_name(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features in another order, beside a column of words."""
    path = tmp_path / "more.csv"
    lines = [f"name,{row[3]},{row[0]},{row[1]},{row[2]}" for row in ROWS]
    path.write_text("\n".join(["id,d,a,b,c", *lines]))
    out, _ = printed([str(tiny_run), str(path), "--columns", "a,b,c,d"], capsys)
    plain = tmp_path / "plain.csv"
    plain.write_text("\n".join(",".join(map(str, row)) for row in ROWS))  # no names: all are rows
    out_plain, _ = printed([str(tiny_run), str(plain)], capsys)
    assert out.replace(str(path), "") == out_plain.replace(str(plain), "")
    assert len(out.splitlines()) == 4


def test_no_csv_at_all(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes of any kind are rows with an error, or a refusal, and never a traceback."""
    path = tmp_path / "odd.csv"
    path.write_bytes(b"1,2,3,4\n\xff\xfe\x00,2,3,4\n1,2,3," + b"9" * 200_000 + b"\n5,6,7,8\n")
    out, _ = printed([str(tiny_run), str(path)], capsys)
    errors = [bool(row["error"]) for row in csv.DictReader(io.StringIO(out))]
    assert errors == [False, True, True, False]


def test_first_row_of_numbers_is_no_header(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where one is wrong; columns of one name are all read."""
    path = tmp_path / "rows.csv"
    path.write_text("1,nan,3,1_000\n2,0,0,0.5\n")
    out, _ = printed([str(tiny_run), str(path)], capsys)
    assert [bool(row["error"]) for row in csv.DictReader(io.StringIO(out))] == [True, False]
    path.write_text("x,x,x,x\n2,0,0,0.5\n")
    (row,) = csv.DictReader(io.StringIO(printed([str(tiny_run), str(path)], capsys)[0]))
    assert float(row["probability"]) == pytest.approx(float(expected(tiny_run)[0].max()), rel=1e-6)


@pytest.mark.parametrize("columns", [[], ["--columns", "a,b,c,d"]])
def test_rows_of_another_length_than_the_header(
    columns: list[str], tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decimal commas and a quote that is not closed: nothing is cut off and predicted."""
    path = tmp_path / "rows.csv"
    decimal = "2,0,0,0,0,0,0,5"
    path.write_text(f'a,b,c, d\n{decimal}\n2,0,0,0.5\n2,0,0\n2,0,0,0.5,\n"2,0,0,0.5\n2,0,0,1\n')
    out, err = printed([str(tiny_run), str(path), *columns], capsys)
    has = "the first row has 4"
    assert [row["error"] for row in csv.DictReader(io.StringIO(out))] == [
        f"it has 8 columns, too many: {has}",
        "",
        f"it has 3 columns, too few: {has}",
        f"it has 5 columns, too many: {has}",
        "unexpected end of data in line 7 (is a quote not closed?)",
    ]
    assert err.startswith("warning: 4 of 5 could not be read")


@pytest.mark.parametrize(
    ("first", "header", "count"),
    [
        ("0,1,2,3", "yes", 2),
        pytest.param("0,1,2,3", "no", 3, marks=pytest.mark.slow),
        ("0,1,2,3", "auto", 3),
        pytest.param("a,b,c,d", "auto", 2, marks=pytest.mark.slow),
        ("a,b,c,d", "no", 3),
    ],
)
def test_header_can_be_told(
    first: str,
    header: str,
    count: int,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"{first}\n2,0,0,0.5\n3,0,0,0.5\n")
    given = [str(tiny_run), str(path), "--header", header]
    rows = list(csv.DictReader(io.StringIO(printed(given, capsys)[0])))
    errors = [""] * count
    if first == "a,b,c,d" and header == "no":
        errors[0] = "'a' is no finite number"
    assert [row["error"] for row in rows] == errors
    if first == "0,1,2,3":
        given += ["--columns", "0,1,2,3"]
        if header == "yes":
            assert len(printed(given, capsys)[0].splitlines()) == 3
        else:
            wrong = f"--columns 0: {path} has none. Its first row is taken for values: give"
            fails(predict.main, given, f"{wrong} --header yes.", capsys)


def test_rows_from_a_pipe(tiny_run: Path) -> None:
    """All of them, though nothing can be read twice."""
    process = forked("-m", predict.__name__, str(tiny_run), "-", "--format", "jsonl")
    out, _ = process.communicate("a,b,c,d\n" + "2,0,0,0.5\n" * 3000, timeout=60)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["row"] for row in rows] == list(range(1, 3001))
    assert {row["file"] for row in rows} == {"-"}
    assert {row["label"] for row in rows} == {str(int(expected(tiny_run)[0].argmax()))}


def test_outputs_that_are_not_finite(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No class is the likeliest of NaN, which finite inputs give that are too large."""

    def scores(self: TinyModel, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs)
        return outputs + 0 * (inputs.sum(1, keepdim=True) * 1e38)

    monkeypatch.setattr(TinyModel, "forward", scores)
    path = tmp_path / "rows.csv"
    path.write_text("9,0,0,0\n2,0,0,0.5\n")
    out, err = printed([str(tiny_run), str(path), "--format", "jsonl"], capsys)
    rows = [json.loads(line) for line in out.splitlines()]
    error = "the model gives NaN or infinity for it"
    assert rows[0] == {"file": str(path), "row": 1, "error": error}
    assert rows[1]["probability"] == pytest.approx(float(expected(tiny_run)[0].max()), rel=1e-6)
    assert err.startswith("warning: 1 of 2 could not be read")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], "RUN: has names of 2 classes, and the model 3."),
        ([1, 2, 3], "RUN: what should be the names of its classes are none."),
        ("abc", "RUN: what should be the names of its classes are none."),
    ],
)
def test_names_that_do_not_fit(names: Any, message: str, tiny_run: Path) -> None:
    predictor = load(tiny_run)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        predictor.name_classes(names)
    assert str(error.value) == message
    predictor.name_classes(["x", "y", "z"])
    assert predictor.class_names == ["x", "y", "z"]


def test_stopped(
    tiny_run: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C in the second batch: what is written is said."""
    run_model, batches = prediction.run_model, iter([None])

    def press(*args: Any) -> Any:
        if next(batches, "pressed"):
            raise KeyboardInterrupt
        return run_model(*args)

    monkeypatch.setattr(prediction, "run_model", press)
    output = tmp_path / "out.csv"
    given = [str(tiny_run), str(table), "--output", str(output), "--batch_size", "4"]
    with pytest.raises(SystemExit, match="130"):
        predict.main(given)
    assert capsys.readouterr().err == "stopped after 4 rows, which are written\n"
    assert len(output.read_text().splitlines()) == 5


def test_model_that_gives_probabilities(tiny_run: Path) -> None:
    """Somebody else's may end in a softmax: another would flatten what it says."""
    plain = load(tiny_run)
    model = plain.model
    assert isinstance(model, TinyModel)
    model.network = torch.nn.Sequential(model.network, torch.nn.Softmax(1))
    again = Predictor(model, plain.preprocess, plain.data)
    torch.testing.assert_close(again(torch.tensor(ROWS)), expected(tiny_run))


def test_model_knows_where_it_was_moved(tiny_run: Path) -> None:
    """A LightningModule keeps its device and dtype itself, apart from its weights'."""
    predictor = load(tiny_run)
    predictor.to(torch.float64)
    assert predictor.dtype == predictor.model.dtype == torch.float64
    predictor.to("meta")
    assert predictor.device == predictor.model.device == torch.device("meta")
    assert {weight.device.type for weight in predictor.model.parameters()} == {"meta"}


def test_python(tiny_run: Path) -> None:
    predictor = load(tiny_run)
    torch.testing.assert_close(predictor(torch.tensor(ROWS)), expected(tiny_run))
    assert predictor.class_names == ["0", "1", "2"]
    assert not predictor.training
    last = load("last", runs_dir=tiny_run.parents[1], checkpoint="last")
    weights = torch.load(tiny_run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[n], t) for n, t in last.model.state_dict().items())


def test_lone_checkpoint(
    tiny_run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = tmp_path / "lone.ckpt"
    shutil.copy(tiny_run / "checkpoints/best.ckpt", lone)
    message = f"RUN {lone}: has no config.yaml beside it. Give the --config it was trained with."
    fails(predict.main, [str(lone), str(table)], message, capsys)
    config = ["--config", str(tiny_run / "config.yaml")]
    assert printed([str(lone), str(table), *config], capsys) == printed(
        [str(tiny_run), str(table)], capsys
    )


def test_device(
    tiny_run: Path, table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [str(tiny_run), str(table), "--device"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (
        prediction.find_device("auto") == prediction.find_device("cuda") == torch.device("cuda:0")
    )
    assert prediction.find_device("cuda:1") == torch.device("cuda:1")
    message = "--device cuda:2: there is none here. Did you mean `cuda:1`? Available: cpu, …"
    fails(predict.main, [*given, "cuda:2"], message, capsys)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert prediction.find_device("auto") == torch.device("cpu")
    assert printed([*given, "cpu"], capsys) == printed(given[:-1], capsys)


def test_memory_that_runs_out(
    tiny_run: Path, table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee …")

    monkeypatch.setattr(Predictor, "forward", run_out)
    message = (
        "--batch_size: 8: the device's memory is too small for it (Tried to allocate 2.00 GiB).\n"
        "  Use a smaller --batch_size, or --device cpu."
    )
    fails(predict.main, [str(tiny_run), str(table), "--batch_size", "8"], message, capsys)


def test_bad_input(
    tiny_run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def expect(message: str, *args: str) -> None:
        fails(predict.main, [str(tiny_run), *args], message, capsys)

    near = f"INPUT {tmp_path}/row.csv: there is no such file or folder. Did you mean `{table}`?"
    expect(near, f"{tmp_path}/row.csv")
    commas = "Columns are one word with commas, as in --columns x1,x2."
    none = "INPUT b: there is no such file or folder."
    expect(f"{none} {commas}", str(table), "--columns", "a", "b")
    folder = f"INPUT {tmp_path}: is a folder, and TinyModel takes CSV files of numbers."
    expect(folder, str(tmp_path))
    given = [str(table)]
    no_column = f"--columns e: {table} has none. Available: a, b, c, d."
    expect(no_column, *given, "--columns", "a,b,c,e")
    expect(no_column.replace(" e:", " :"), *given, "--columns", "")
    few = f"INPUT {table}: has 2 columns, but TinyModel takes 4. Choose by --columns."
    expect(few, *given, "--columns", "a, b")
    twice = tmp_path / "twice.csv"
    twice.write_text("a,a,b,c\n1,2,3,4\n")
    several = f"--columns a: {twice} has 2. Did you mean `a`? Available: a, a, b, c."
    expect(several, str(twice), "--columns", "a,b,c,a")
    for mark, count in ((";", 1), ("\t", 1), (",5;", 5)):
        twice.write_text(mark.join("12345"))
        mark = mark[-1]
        marked = f"INPUT {twice}: has {count} columns, but TinyModel takes 4. Separate them"
        expect(f"{marked} by `,`, not by {mark!r}.", str(twice))
    twice.write_text("\n")
    expect(f"INPUT {twice}: is empty.", str(twice))
    twice.write_text("1,x,2,3\n,,,\n")
    unread = "2 of 2 could not be read: see `error` in their rows."
    with pytest.raises(SystemExit, match="2"):
        predict.main([str(tiny_run), str(twice)])
    assert capsys.readouterr().err == f"error: INPUT: {unread}\n"
    expect("--top_k 4: is more than the model has classes, 3.", *given, "--top_k", "4")
    expect("--top_k 0: is not at least 1.", *given, "--top_k", "0")
    command = f"python -m {predict.__name__}"
    typo = f"--formt: {command} has no such option. Did you mean `--format`?"
    expect(typo, *given, "--formt", "csv")
    choice = "--format cvs: is no choice. Did you mean `csv`? Available: csv, jsonl."
    expect(choice, *given, "--format", "cvs")
    itself = f"--output {table}: is an input. Choose another file."
    expect(itself, *given, "--output", str(table))
    assert "2.0,0.0,0.0,0.5" in table.read_text()
    best = tiny_run / "checkpoints/best.ckpt"
    for file in (best, tiny_run / "metrics.csv"):
        of_run = f"--output {file}: is a file of a run. Choose another."
        expect(of_run, *given, "--output", str(file))
    other = f"--output {tmp_path}/x.parquet: is neither .csv nor .jsonl. Give --format too."
    expect(other, *given, "--output", f"{tmp_path}/x.parquet")
    nowhere = f"--output {tmp_path}/no/x.csv: there is no folder {tmp_path}/no. Give the name of a "
    expect(f"{nowhere}file.", *given, "--output", f"{tmp_path}/no/x.csv")


def test_reader_that_goes_away(tiny_run: Path, table: Path) -> None:
    """As with ``| head -1``: no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    process = forked("-m", predict.__name__, str(tiny_run), str(table), stdout=writing)
    os.close(writing)
    said = finish(process)
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


def test_model_is_loaded_while_another_project_is_at_work(tiny_run: Path, tmp_path: Path) -> None:
    """The run tells which package it is of."""
    before = current()
    Project("", root=tmp_path)
    try:
        assert load(tiny_run).num_features == 4
    finally:
        before.use()


@pytest.mark.slow
def test_model_is_loaded_where_no_project_is_at_work(tiny_run: Path) -> None:
    """In a new process, as in a notebook: the run tells which package it is of."""
    program = f"from lightkeel import load\nprint(load({str(tiny_run)!r}).num_features)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr
