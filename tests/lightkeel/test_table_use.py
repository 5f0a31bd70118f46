"""Models of tables by command: trained, evaluated, used and exported with the trained scaling."""

import csv
import io
import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lightkeel.use.predictor import load
from lightkeel.use.samples import open_table, read_row
from src import evaluate, export, predict
from src.data import TableDataModule
from src.models import MLP
from src.train import main as train
from tests.lightkeel.commands import experiment, fails, state
from tests.lightkeel.places import ROOT

DIABETES = str(ROOT / "configs/diabetes.csv")
NAMES = ["width", "depth", "note", "kind"]


def rows(number: int, seed: int = 0) -> list[list[Any]]:
    """Two numbers of large and small scale, a word, and which of three kinds they tell."""
    draw = random.Random(seed)
    kinds = {"bolt": (1000, 0.02), "nut": (1200, 0.02), "pin": (1000, 0.06)}
    chosen = [draw.choice(list(kinds)) for _ in range(number)]
    return [
        [draw.gauss(kinds[k][0], 20), draw.gauss(kinds[k][1], 0.004), f"no. {n}", k]
        for n, k in enumerate(chosen)
    ]


def write(path: Path, table: list[list[Any]], names: list[str] = NAMES) -> Path:
    """Write a table with its columns in the order of ``names``."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([row[NAMES.index(name)] for name in names] for row in table)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of MLP on kinds, whose table is gone; not to be written to."""
    folder = tmp_path_factory.mktemp("kinds")
    path = write(folder / "kinds.csv", rows(120))
    data = ["--data", "TableDataModule", "--data.path", str(path), "--data.target", "kind"]
    data += ["--data.exclude", "[note]", "--data.classes", "true", "--data.missing", "mean"]
    model = ["--model", "MLP", "--model.num_features", "2", "--model.num_classes", "3"]
    model += ["--model.hidden_features", "[8]", "--model.optimizer", "{name: AdamW, lr: 0.05}"]
    rest = [
        "--trainer.max_epochs",
        "8",
        "--callbacks.plots",
        "null",
        "--trainer.accelerator",
        "cpu",
    ]
    where = ["--runs_dir", str(folder), "--run_name", "run"]
    assert train([*model, *data, *rest, *where]) == 0
    path.unlink()
    return folder / "mlp/run"


def predicted(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[list[Any], str]:
    capsys.readouterr()
    assert predict.main([*args, "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    return list(csv.DictReader(io.StringIO(captured.out))), captured.err


def expected(run: Path, table: list[list[Any]]) -> torch.Tensor:
    """Probabilities by the model itself and the scaling in the checkpoint, without other code."""
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    trained = checkpoint["TableDataModule"]
    assert trained["features"] == ["width", "depth"]
    assert trained["classes"] == checkpoint["class_names"] == ["bolt", "nut", "pin"]
    inputs = np.array([row[:2] for row in table], np.float32) - np.float32(trained["mean"])
    model = MLP.load_from_checkpoint(run / "checkpoints/best.ckpt", weights_only=True).eval()
    with torch.no_grad():
        scores: torch.Tensor = model(torch.tensor(inputs * np.float32(trained["scale"])))
    return scores.softmax(1)


def test_least_squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The regression ends at the solution of the normal equations, by its best checkpoint too."""
    monkeypatch.chdir(ROOT)
    where = ["--runs_dir", str(tmp_path), "--run_name", "run"]
    assert train([*experiment("table"), *where, "--callbacks.plots", "null"]) == 0
    run = tmp_path / "table/run"
    data = TableDataModule(DIABETES, "progression", seed=0)
    data.setup("fit")
    chosen = data.datasets["train"].rows.numpy()
    assert len(chosen) == 354
    table = np.loadtxt(DIABETES, delimiter=",", skiprows=1)[chosen]
    x = (table[:, :10] - table[:, :10].mean(0)) / table[:, :10].std(0)
    wanted, *_ = np.linalg.lstsq(np.c_[x, np.ones(354)], table[:, 10], rcond=None)
    assert wanted[-1] == pytest.approx(153.28531)  # the mean
    for name in ("best.ckpt", "last.ckpt"):
        weights, bias = state(run, name).values()
        np.testing.assert_allclose([*weights[0], bias[0]], wanted, atol=1e-3, rtol=0)
    metrics = json.loads((run / "metrics.json").read_text())
    residuals = table[:, 10] - np.c_[x, np.ones(354)] @ wanted
    assert metrics["train/loss"] == pytest.approx(float((residuals**2).mean()), rel=1e-5)


@pytest.mark.slow
def test_columns_by_their_names(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In any order, beside others, as in training; without names, in the order of training."""
    table = rows(6, seed=1)
    wanted = expected(run, table)
    orders = [NAMES, ["kind", "depth", "note", "width"], ["depth", "width"]]
    for number, names in enumerate(orders):
        path = write(tmp_path / f"{number}.csv", table, names)
        found, errors = predicted([str(run), str(path)], capsys)
        assert list(found[0]) == ["file", "row", "label", "probability", "error"]
        assert [row["row"] for row in found] == [*"123456"]
        assert [float(row["probability"]) for row in found] == pytest.approx(
            wanted.max(1).values.tolist(), rel=1e-5
        )
        labels = [["bolt", "nut", "pin"][place] for place in wanted.argmax(1)]
        assert [row["label"] for row in found] == labels
        others = [name for name in names if name not in ("width", "depth")]
        said = f"passed over 2 columns: {', '.join(others)}. To copy them: --keep all"
        assert errors == (f"warning: INPUT: {said}\n" if others else "")
    # Chosen are those of training, by name; other names stand for them in the order given.
    path = write(tmp_path / "t.csv", table, ["depth", "width"])
    for chosen in ("depth,width", "width,depth"):
        found, _ = predicted([str(run), str(path), "--columns", chosen], capsys)
        assert [row["label"] for row in found] == labels
    path.write_text(path.read_text().replace("depth,width", "d,w"))
    found, _ = predicted([str(run), str(path), "--columns", "w,d"], capsys)
    assert [row["label"] for row in found] == labels
    plain = tmp_path / "plain.csv"
    plain.write_text("".join(f"{row[0]},{row[1]}\n" for row in table))
    found, _ = predicted([str(run), str(plain)], capsys)
    assert [row["label"] for row in found] == labels
    np.savez(tmp_path / "t.npz", depth=[r[1] for r in table], width=[r[0] for r in table])
    found, _ = predicted([str(run), str(tmp_path / "t.npz")], capsys)
    assert [row["label"] for row in found] == labels


def test_names_that_are_numbers(tmp_path: Path) -> None:
    """As those of training they are names, whatever they look like; else they are values."""
    path = tmp_path / "t.csv"
    path.write_text("2,1,3\n5,6,7\n")
    trained = SimpleNamespace(feature_names=["1", "2"])
    found = [open_table(path, data, None) for data in (trained, SimpleNamespace())]
    assert [[*table.rows] for table in found] == [[[*"567"]], [[*"213"], [*"567"]]]
    assert [table.names for table in found] == [[*"213"], [*"123"]]


@pytest.mark.slow
def test_columns_that_are_kept(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = rows(3, seed=1)
    path = write(tmp_path / "t.csv", table)
    found, errors = predicted([str(run), str(path), "--keep", "all"], capsys)
    assert list(found[0]) == ["file", "row", "note", "kind", "label", "probability", "error"]
    assert [[row["note"], row["kind"]] for row in found] == [row[2:] for row in table]
    assert errors == ""
    given = [str(run), str(path), "--keep", "kind, width"]
    found, errors = predicted(given, capsys)
    assert [[row["kind"], float(row["width"])] for row in found] == [[r[3], r[0]] for r in table]
    assert errors == "warning: INPUT: passed over 1 column: note. To copy them: --keep all\n"
    hint = "Did you mean `kind`? Available: depth, kind, note, width."
    wrong = f"--keep kin: {path} has none. {hint}"
    fails(predict.main, [str(run), str(path), "--keep", "kin"], wrong, capsys)
    other = write(tmp_path / "other.csv", table, ["depth", "width"])
    wrong = f"INPUT {other}: has other columns to keep than {path}: none. Name those that all have."
    fails(predict.main, [str(run), str(path), str(other), "--keep", "all"], wrong, capsys)
    path.write_text("width,depth,row\n1,2,3\n")
    output = tmp_path / "out.csv"
    wrong = "--keep row: is a column of the output itself. Rename it."
    given = [str(run), str(path), "--keep", "all", "--output", str(output)]
    fails(predict.main, given, wrong, capsys)
    assert not output.exists()


def test_rows_that_cannot_be_read(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing cells are the mean, as they were in training; what is no number is an error."""
    trained = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["TableDataModule"]
    path = tmp_path / "t.csv"
    path.write_text(f"depth,width\n0.02,\n0.02,{trained['mean'][0]}\n0.02,x\n0.02\n")
    found, errors = predicted([str(run), str(path)], capsys)
    assert found[0]["label"] == found[1]["label"] != ""
    assert float(found[0]["probability"]) == pytest.approx(float(found[1]["probability"]))
    assert found[2]["error"] == "column `width`: 'x' is no finite number"
    assert found[3]["error"] == "it has 1 columns, too few: the first row has 2"
    assert errors == "warning: 2 of 4 could not be read: see `error` in their rows.\n"
    path.write_text("depth,with\n0.02,1\n")
    wrong = f"INPUT {path}: has no column `width`. Did you mean `with`?"
    fails(predict.main, [str(run), str(path)], wrong, capsys)
    path.write_text("depth;width\n0.02;1\n")
    wrong = f"INPUT {path}: has no column `width`. Is it separated by ';'? Save it with `,`."
    fails(predict.main, [str(run), str(path)], wrong, capsys)


def test_evaluated_on_another_table(run: Path, tmp_path: Path) -> None:
    """With classes in another order and one absent: of each the accuracy, by the old scaling."""
    table = [row for row in rows(40, seed=2) if row[3] != "bolt"]
    path = write(tmp_path / "t.csv", table, ["kind", "depth", "width"])
    output = tmp_path / "metrics.json"
    given = [str(run), "--data.test_path", str(path), "--output", str(output)]
    assert evaluate.main(given) == 0
    found = json.loads(output.read_text())
    predictions = expected(run, table).argmax(1).tolist()
    right: dict[str, list[bool]] = {"nut": [], "pin": []}
    for row, number in zip(table, predictions, strict=True):
        right[row[3]].append(["bolt", "nut", "pin"][number] == row[3])
    for name, hits in right.items():
        assert found[f"test/acc/{name}"] == sum(hits) / len(hits)
    assert "test/acc/bolt" not in found
    assert found["test/acc"] == pytest.approx(sum(map(sum, right.values())) / len(table))
    assert found["test/acc"] > 0.8


def test_evaluated_on_a_table_without_the_target(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.csv", rows(3), ["depth", "width"])
    fails(
        evaluate.main,
        [str(run), "--data.test_path", str(path)],
        f"data.test_path: {path}: has no column `kind`. Available: depth, width.\n"
        "  The target is needed to evaluate; `predict` needs none.",
        capsys,
    )


def test_a_model_of_rows_reads_no_files(run: Path) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        load(run).read("new.csv")
    order = "(N, 2) float32 in the order of predictor.data.feature_names"
    assert str(error.value) == f"read: is for images. Call predictor(rows) with rows {order}."


def test_missing_cells_where_training_had_none() -> None:
    """They are said to be missing, with what was written for it."""
    places = [(0, "column `a`: "), (1, "")]
    for row, error in (
        (["", 1], "column `a`: is missing"),
        ([None, 1], "column `a`: is missing"),
        (["NA", 1], "column `a`: 'NA' is missing"),
        ([1, ""], "is missing"),
    ):
        assert read_row(places, [], SimpleNamespace(), [], row).error == error
    assert read_row(places, [], SimpleNamespace(missing="mean"), [], ["", 1]).error == ""


def exported(run: Path, folder: Path, format_: str, suffix: str) -> Path:
    path = folder / f"model{suffix}"
    assert export.main([str(run), "--format", format_, "--output", str(path)]) == 0
    return path


def test_exports_hold_the_scaling(run: Path, tmp_path: Path) -> None:
    """Raw columns in, probabilities out, of missing cells too; in a checkpoint, the state."""
    table = rows(5, seed=3)
    raw = torch.tensor([row[:2] for row in table])
    wanted = expected(run, table)
    predictor = load(run)
    torch.testing.assert_close(predictor(raw), wanted, atol=1e-6, rtol=0)
    # What files are compared on looks like the training rows, and saturates no probability.
    assert predictor.random_samples(1000).mean(0).tolist() == pytest.approx([1066, 0.033], rel=0.05)
    program = torch.export.load(exported(run, tmp_path, "torch", ".pt2")).module()
    torch.testing.assert_close(program(raw), wanted, atol=1e-6, rtol=0)
    raw[0, 0] = torch.nan
    assert program(raw).isfinite().all()
    made = torch.load(exported(run, tmp_path, "ckpt", ".ckpt"), weights_only=True)
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert made["TableDataModule"] == best["TableDataModule"]


@pytest.mark.extras
def test_exports_for_others(run: Path, tmp_path: Path) -> None:
    onnxruntime, safetensors = map(pytest.importorskip, ("onnxruntime", "safetensors"))
    table = rows(5, seed=3)
    raw, wanted = np.array([row[:2] for row in table], np.float32), expected(run, table).numpy()
    session = onnxruntime.InferenceSession(exported(run, tmp_path, "onnx", ".onnx"))
    np.testing.assert_allclose(session.run(None, {"samples": raw})[0], wanted, atol=1e-6)
    path = exported(run, tmp_path, "safetensors", ".safetensors")
    with safetensors.safe_open(path, "pt") as file:
        held = json.loads(file.metadata()["data"])["TableDataModule"]
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = MLP(2, 3, [8])
    model.load_state_dict(weights)
    with torch.no_grad():
        scaled = (torch.tensor(raw) - torch.tensor(held["mean"])) * torch.tensor(held["scale"])
        np.testing.assert_allclose(model(scaled).softmax(1).numpy(), wanted, atol=1e-6)
    back = tmp_path / "back.ckpt"
    config = ["--config", str(run / "config.yaml")]
    given = [str(path), *config, "--format", "ckpt", "--output", str(back)]
    assert export.main(given) == 0
    assert torch.load(back, weights_only=True)["TableDataModule"] == held


def test_resumed_on_a_table_that_has_changed(tmp_path: Path) -> None:
    """What the weights were trained with stays, though rows are others and columns were added."""
    path = write(tmp_path / "t.csv", rows(30), ["width", "depth"])
    given = [*experiment("table_mlp"), "--data.path", str(path), "--data.target", "depth"]
    given += ["--model.num_features", "1", "--trainer.max_epochs"]
    where = ["--callbacks.plots", "null", "--runs_dir", str(tmp_path), "--run_name", "run"]
    assert train([*given, "1", *where]) == 0
    run = tmp_path / "table_mlp/run"
    before = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["TableDataModule"]
    write(tmp_path / "t.csv", rows(30, seed=5), ["note", "depth", "width"])
    assert train(["--resume", str(run), "--trainer.max_epochs", "2"]) == 0
    after = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert after["global_step"] == 2
    assert after["TableDataModule"] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.num_features", "3"],
            "num_features: 3, but TableDataModule has 10. Set it to 10.",
        ),
        (["--model.num_classes", "3"], "num_classes: 3, but TableDataModule has none."),
        (
            ["--data.classes", "true"],
            "num_classes: null, but TableDataModule has 214. Set it to 214.",
        ),
    ],
)
def test_model_that_does_not_fit(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    given = [*experiment("table_mlp"), *options, "--runs_dir", str(tmp_path / "runs")]
    fails(train, given, f"model.{message}", capsys)
    assert not (tmp_path / "runs").exists()


def test_damaged_state_in_a_checkpoint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    path = copy / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["TableDataModule"]["mean"] = [1.0]
    torch.save(checkpoint, path)
    table = write(tmp_path / "t.csv", rows(3))
    wrong = "data: what RUN holds of its table is damaged (2 features, 1 means)."
    fails(predict.main, [str(copy), str(table)], wrong, capsys)
