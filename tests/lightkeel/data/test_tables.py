"""Tables as they are served: features by name, scaled by the training rows; and hostile ones."""

import io
import pickle
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightkeel.data.table import TableDataModule
from tests.lightkeel.data.serving import SPLITS, serve, targets, trainer

ROWS = [[1, 10, 5], [2, 30, 6], [3, 20, 7], [4, 40, 8], [5, 50, 9]]  # a, b, y
PLAIN = "a,b,y\n" + "".join(f"{a},{b},{y}\n" for a, b, y in ROWS)


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def table(path: str, **settings: Any) -> TableDataModule:
    options: dict[str, Any] = {"target": "y", "seed": 0, "shuffle": False, "batch_size": 100}
    return TableDataModule(
        path, **{**options, "val_fraction": 0.2, "test_fraction": 0.2} | settings
    )


def values(data: TableDataModule, split: Any = "train") -> list[list[float]]:
    (batch,) = serve(data, split)
    found: list[list[float]] = batch[0].tolist()
    return found


def test_split_by_the_seed_and_scaled_by_the_training_rows(tmp_path: Path) -> None:
    data = table(write(tmp_path / "t.csv", PLAIN))
    served = {split: serve(data, split) for split in SPLITS}
    rows = {split: data.datasets[split].rows.tolist() for split in SPLITS}
    assert rows == {"train": [0, 1, 2], "val": [3], "test": [4]}
    found = {split: targets(batches)[0] for split, batches in served.items()}
    assert found == {"train": [5.0, 6.0, 7.0], "val": [8.0], "test": [9.0]}
    assert data.scaling.mean.tolist() == [2, 20]
    std = (2 / 3) ** 0.5  # of 1, 2, 3 about 2, as NumPy and scikit-learn have it
    assert (1 / data.scaling.scale).tolist() == pytest.approx([std, 10 * std])
    assert served["train"][0][0][:, 1].tolist() == pytest.approx([-1.2247449, 1.2247449, 0])
    assert served["val"][0][0].tolist() == [pytest.approx([2.4494897, 2.4494897])]
    assert served["train"][0][1].dtype == torch.float32
    assert data.num_features == 2
    assert data.num_classes is None
    assert targets(serve(table(str(tmp_path / "t.csv"), seed=1), "test")) == [[7.0]]


def test_tables_of_validation_and_test(tmp_path: Path) -> None:
    """Each with its columns in another order, and more of them; all of the first is trained on."""
    path = write(tmp_path / "t.csv", PLAIN)
    val = write(tmp_path / "v.csv", "y,id,b,a\n1,x,40,3\n")
    test = write(tmp_path / "e.csv", "b,y,a\n40,2,3\n40,3,3\n")
    data = table(path, val_path=val, test_path=test)
    assert [row[0] for row in values(data)] == pytest.approx(
        [-1.4142135, -0.7071068, 0, 0.7071068, 1.4142135]
    )
    assert values(data, "val") == [pytest.approx([0, 0.7071068])]
    assert values(data, "test") == [pytest.approx([0, 0.7071068])] * 2
    assert targets(serve(data, "test")) == [[2.0, 3.0]]
    data = table(path, test_path=test)
    serve(data)
    assert data.datasets["train"].rows.tolist() == [0, 1, 2, 4]


def test_features_and_exclude(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "id,a,b,y\n" + "".join(f"x,{i},{i},{i}\n" for i in range(5)))
    assert table(path, exclude=["id"]).feature_names == ["a", "b"]
    assert table(path, features=["b", "a"]).feature_names == ["b", "a"]
    assert table(path, exclude=["id", "a"]).num_features == 1


CLASSES = "y,a\nb,1\na,2\nc,3\n10,4\nb,5\n2,6\n"


def test_classes_by_name(tmp_path: Path) -> None:
    """In sorted order, as text; a table with some of them in another order has the same numbers."""
    val = write(tmp_path / "v.csv", "a,y\n1,c\n2, b \n")
    data = table(write(tmp_path / "t.csv", CLASSES), classes=True, val_path=val, test_path=val)
    assert targets(serve(data)) == [[3, 2, 4, 0, 3, 1]]
    assert data.class_names == ["10", "2", "a", "b", "c"]
    assert data.num_classes == 5
    assert targets(serve(data, "val")) == [[4, 3]]
    assert serve(data)[0][1].dtype == torch.int64
    first = table(str(tmp_path / "t.csv"), classes=True, val_path=val, test_path=val)
    assert targets(serve(first, "val")) == [[4, 3]]  # before training is read


def test_missing_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "t.csv", "a,b,y\n1,,5\n2, NaN ,6\nn/a,20,7\n3,40,8\n")
    val = write(tmp_path / "v.csv", "a,b,y\n0,,5\n3,40,5\n")
    own = {"val_path": val, "test_path": val}
    data = table(path, missing="mean", **own)
    assert values(data) == [
        pytest.approx([-1.2247449, 0]),
        pytest.approx([0, 0]),
        pytest.approx([0, -1]),
        pytest.approx([1.2247449, 1]),
    ]
    assert values(data, "val") == [[pytest.approx(-2.4494898), 0], pytest.approx([1.2247449, 1])]
    said = "warning: data.missing: {} of {} {} replaced by the mean of their column.\n"
    said = said.format("3 cells", path, "are") + said.format("1 cell", val, "is") * 2
    assert capsys.readouterr().err == said
    data = table(path, missing="drop", **own)
    assert targets(serve(data)) == [[8.0]]
    assert targets(serve(data, "val")) == [[5.0]]
    dropped = f"data.missing: dropped 3 of 4 rows of {path}, in which a cell is missing.\n"
    assert dropped in capsys.readouterr().err


def test_columns_that_tell_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 for ever, whatever they hold later; and what float32 cannot tell apart is said."""
    rows = "".join(f"0.1,{16_777_216 + 32 * i},{i}\n" for i in range(4))
    path = write(tmp_path / "t.csv", "a,b,y\n" + rows)
    val = write(tmp_path / "v.csv", "a,b,y\n77,16777264,5\n")
    data = table(path, val_path=val, test_path=val)
    assert values(data, "val") == [[0, 0]]
    assert capsys.readouterr().err == (
        "warning: data: column `a` is the same in all training rows (in float32), and taken for "
        "0.\nwarning: data: float32 holds `b` in steps of 2, for a deviation of 35.8. Subtract a "
        "constant from it in the table.\n"
    )


def test_what_was_trained_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Features, scaling and classes are those of the checkpoint, whatever became of the table."""
    path = write(tmp_path / "t.csv", CLASSES)
    data = table(path, classes=True, test_fraction=0.3)
    wanted = values(data, "test")
    state, inputs = data.state_dict(), np.arange(1, 7, dtype="<f4").tobytes()
    assert state == {
        "features": ["a"],
        "classes": ["10", "2", "a", "b", "c"],
        "mean": [2.0],  # of 1, 2, 3
        "scale": [pytest.approx(1.5**0.5)],
        "rows": 6,
        "crc": zlib.crc32(np.array([3, 2, 4, 0, 3, 1], "<i8").tobytes() + inputs),
    }
    write(tmp_path / "t.csv", CLASSES.replace("a,2", "a,200") + "d,7\n")
    again = table(path, classes=True, test_fraction=0.3)
    again.load_state_dict(state)
    assert again.class_names == ["10", "2", "a", "b", "c"]
    with pytest.raises(
        ValueError, match=r"line 8, column `y`: 'd' is a class that was not trained"
    ):
        serve(again, "test")
    write(tmp_path / "t.csv", CLASSES + "c,7\n")
    again.load_state_dict(state)
    assert len(values(again, "test")) == 2
    has = "has 7 rows, and had 6 when the model was trained: other rows are in its parts."
    assert capsys.readouterr().err == f"warning: data.path: {path} {has}\n"
    Path(path).unlink()
    test = write(tmp_path / "e.csv", "a,b,y\n4,1,10\n5,1,b\n")
    other = table(path, classes=True, test_path=test)
    other.load_state_dict(state)
    assert (
        values(other, "test")
        == wanted
        == [[pytest.approx(2 * 1.5**0.5)], [pytest.approx(3 * 1.5**0.5)]]
    )
    assert other.preprocessing()(torch.tensor([[4.0], [5.0]])).tolist() == wanted
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"features": None},
            "what RUN holds of its table is damaged ('NoneType' object is not iterable).",
        ),
        ({"mean": [1.0, 2.0]}, "what RUN holds of its table is damaged (1 features, 2 means)."),
        (
            {"scale": ["x"]},
            "what RUN holds of its table is damaged (could not convert string to float: 'x').",
        ),
    ],
)
def test_damaged_state(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    state = {"features": ["a"], "classes": None, "mean": [1.0], "scale": [1.0], "rows": 6}
    with pytest.raises(ValueError) as error:  # noqa: PT011
        table("gone.csv").load_state_dict({**state, **change})
    assert str(error.value) == message


def test_npz(tmp_path: Path) -> None:
    """Arrays by name; of one with two axes, each column."""
    arrays: dict[str, Any] = {
        "x": np.array(ROWS)[:, :2],
        "y": np.array(ROWS)[:, 2],
        "n": np.array([*"abcde"]),
    }
    np.savez_compressed(tmp_path / "t.npz", **arrays)
    data = table(str(tmp_path / "t.npz"), exclude=["n"])
    assert data.feature_names == ["x[0]", "x[1]"]
    assert values(data) == values(table(write(tmp_path / "t.csv", PLAIN)))
    assert table(str(tmp_path / "t.npz"), target="n", classes=True).class_names == [*"abcde"]


@pytest.mark.extras
def test_parquet(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_csv(PLAIN.encode()).with_columns(
        polars.Series("flag", [True, False, None, True, False]),
        polars.Series("nested", [[1, 2]] * 5),
        polars.Series("day", ["2024-01-01"] * 5).str.to_date(),
    )
    frame.write_parquet(tmp_path / "t.parquet")
    path = str(tmp_path / "t.parquet")
    plain = values(table(write(tmp_path / "t.csv", PLAIN)))
    assert values(table(path, features=["a", "b"])) == plain
    flags = values(table(path, features=["flag"], missing="mean"))
    assert flags == [[pytest.approx(1)], [pytest.approx(-1)], [0]]
    wrong = {
        "nested": "row 1, column `nested`: '[1, 2]' is no finite number.",
        "day": "row 1, column `day`: '2024-01-01' is no finite number.",
        "flag": "row 3, column `flag`: is missing.",
    }
    for name, message in wrong.items():
        said = refusal(table(path, features=[name]))
        assert said.splitlines()[0] == f"path: {path}, {message}"
    write(tmp_path / "t.parquet", Path(path).read_bytes()[:-20])
    assert refusal(table(path)).startswith(f"path: {path}: is no Parquet file (")


def test_parquet_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    path = write(tmp_path / "t.parquet", b"PAR1")
    install = "needs the package polars, which is not installed.\nInstall it: make setup ADD=table"
    assert refusal(table(path)) == f"path: {path}: {install}"


def refusal(data: TableDataModule) -> str:
    def begin() -> None:
        data.prepare_data()
        data.setup("fit")

    with pytest.raises((ValueError, OSError)) as error:
        begin()
    assert len(str(error.value).splitlines()) <= 3
    return str(error.value)


def npz(**arrays: Any) -> bytes:
    """Write arrays as a file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


MEND = "Mend it, or leave the column out: data.exclude [b]."
FILL = "Fill it in, or set data.missing to mean or drop."
COMMA = "Write it without; for a decimal comma set data.decimal to ','."
CELLS = {  # what is wrong with a cell of the third line
    "x": f"'x' is no finite number.\n{MEND}",
    "": f"is missing.\n{FILL}",
    " ": f"' ' is missing.\n{FILL}",
    "NA": f"'NA' is missing.\n{FILL}",
    "nan": f"'nan' is missing.\n{FILL}",
    "NULL": f"'NULL' is missing.\n{FILL}",
    "-": f"'-' is no finite number.\n{MEND}",
    "inf": f"'inf' is no finite number.\n{MEND}",
    "-Infinity": f"'-Infinity' is no finite number.\n{MEND}",
    "1e400": f"'1e400' is no finite number.\n{MEND}",
    "1e39": f"'1e39' is no finite number.\n{MEND}",
    "9" * 60: f"'{'9' * 40}' is no finite number.\n{MEND}",
    "1_000": f"'1_000' is no finite number.\n{MEND}",
    "0x10": f"'0x10' is no finite number.\n{MEND}",
    "true": f"'true' is no finite number.\n{MEND}",
    "2024-01-31": f"'2024-01-31' is no finite number.\n{MEND}",
    '"1,234"': f"'1,234' is no finite number.\n{COMMA}",
    "3 kg": f"'3 kg' is no finite number.\n{MEND}",
    "\0": f"'\\x00' is no finite number.\n{MEND}",
    '"1\n2"': f"'1\\n2' is no finite number.\n{MEND}",
}


@pytest.mark.parametrize("cell", CELLS)
def test_hostile_cells(cell: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", f"a,b,y\n1,2,3\n4,{cell},6\n")
    assert refusal(table(path)) == f"path: {path}, line 3, column `b`: {CELLS[cell]}"


LONG = "a" * 200_000
FILES: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    "empty": ("", {}, ": is empty."),
    "blank": ("\n\n", {}, ": is empty."),
    "only a mark": (b"\xef\xbb\xbf", {}, ": is empty."),
    "only names": ("a,b,y\n", {}, ": has no rows below the names of its columns."),
    "target": ("a,b,Y\n1,2,3\n", {}, ": has no column `y`. Available: Y, a, b."),
    "near": (
        "a,b,price\n1,2,3\n",
        {"target": "prize"},
        ": has no column `prize`. Did you mean `price`?",
    ),
    "name of two lines": (
        'a,"b\n(m)",y\n1,2,3\n',
        {"target": "z"},
        ": has no column `z`. Available: a, b (m), y.",
    ),
    "feature": ("a,b,y\n1,2,3\n", {"features": ["c"]}, ": has no column `c`. Available: a, b, y."),
    "excluded": ("a,b,y\n1,2,3\n", {"exclude": ["c"]}, ": has no column `c`. Available: a, b, y."),
    "no feature": ("y\n1\n", {}, ": has no column beside the target `y`."),
    "index": (
        ",a,y\n0,2,3\n",
        {},
        ": column 1 has no name: is it an index? Leave it out: data.exclude [''].",
    ),
    "twice": ("a,a,y\n1,2,3\n", {}, ": has 2 columns named `a`. Rename or remove all but one."),
    "no names": ("1,2,3\n4,5,6\n", {}, ": has no column `y`. Available: 1, 2, 3."),
    "semicolons": (
        "a;b;y\n1;2;3\n",
        {},
        ": has no column `y`. Is it separated by ';'? Set data.separator.",
    ),
    "tabs": (
        "a\tb\ty\n1\t2\t3\n",
        {},
        ": has no column `y`. Is it separated by '\\t'? Set data.separator.",
    ),
    "too few": (
        "a,b,y\n1,2,3\n\n1,2\n",
        {},
        ", line 4: it has 2 columns, too few: the first row has 3.",
    ),
    "too many": (
        "a,b,y\n1,2,3\n1,5,2,3\n",
        {},
        ", line 3: it has 4 columns, too many: the first row has 3.",
    ),
    "open quote": (
        'a,b,y\n1,"2,3\n4,5,6\n7,8,9\n',
        {},
        ", line 2: unexpected end of data in line 4 (is a quote not closed?).",
    ),
    "quotes that swallow": (
        'a,b,y,t\n1,2,3,"5 inch\n1,2,3,ok\n1,2,3,"7 inch\n1,2,3,ok\n',
        {"exclude": ["t"]},
        ", line 2: ',' expected after '\"' in line 4 (is a quote not closed?).",
    ),
    "cell of lines": (
        'a,b,y\n1,"2\n3"\n',
        {},
        ", line 2: it has 2 columns, too few: the first row has 3 in 2 lines "
        "(is a quote not closed?).",
    ),
    "after a line break": (
        'a,b,y,t\n1,2,3,"x\n\ny"\r\n1,2,z,t\r\n',
        {"exclude": ["t"]},
        ", line 5, column `y`: 'z' is no finite number.\nMend it; if it is the name of a class, "
        "set data.classes to true.",
    ),
    "decimal point": (
        "a;b;y\n1.000,5;2;3\n",
        {"separator": ";", "decimal": ","},
        ", line 2, column `a`: '1.000,5' is no finite number.\nMend it, or leave the column out: "
        "data.exclude [a].",
    ),
    "other names": (
        b"a,b,y,caf\xe9\n1,2,3,4\n",
        {},
        ": its column 'caf\\udce9' is no UTF-8. Save it as UTF-8.",
    ),
    "UTF-16": (
        "a,b,y\n1,2,3\n".encode("utf-16"),
        {},
        ": is UTF-16. Save it as UTF-8.",
    ),
    "class of bytes": (
        b"a,b,y\n1,2,caf\xe9\n",
        {"classes": True},
        ", line 2, column `y`: 'caf\\udce9' is no UTF-8.\nSave the file as UTF-8.",
    ),
    "no class": (
        "a,b,y\n1,2,\n",
        {"classes": True, "missing": "mean"},
        ", line 2, column `y`: is missing.\nFill it in, or set data.missing to drop.",
    ),
    "no target": (
        "a,b,y\n1,2,\n",
        {"missing": "mean"},
        ", line 2, column `y`: is missing.\nFill it in, or set data.missing to drop.",
    ),
    "class NA": (
        "a,b,y\n1,2,c\n1,2,d\n1,2, NA\n",
        {"classes": True},
        ", line 4, column `y`: ' NA' is missing.\nFill it in, or set data.missing to drop.",
    ),
    "one class": ("a,b,y\n1,2,cat\n4,5,cat\n", {"classes": True}, ""),
    "none left": ("a,b,y\n1,2,\n", {"missing": "drop"}, ""),
    "long": (
        f"a,b,y\n1,2,{LONG}\n",
        {},
        ", line 2: field larger than field limit (131072) in line 2 (is a quote not closed?).",
    ),
    "column missing": (
        "a,b,y\n1,,5\n2,,6\n3,,7\n",
        {"missing": "mean"},
        ": no row has a `b`. Exclude it.",
    ),
    "two rows": ("a,b,y\n1,2,3\n4,5,6\n", {}, ""),
}


@pytest.mark.parametrize("name", FILES)
def test_hostile_files(name: str, tmp_path: Path) -> None:
    content, settings, message = FILES[name]
    path = write(tmp_path / "t.csv", content)
    others = {
        "none left": f"missing: drop leaves none of the rows of {path}.",
        "one class": "target: column `y` holds one class only, cat.",
        "two rows": "val and test: would take all of the 2 samples.",
    }
    assert refusal(table(path, **settings)) == others.get(name, f"path: {path}{message}")


ARCHIVES = {
    "pickled": (
        npz(a=np.array([{}])),
        "is no npz file of arrays (holds pickled objects, which could run code).",
    ),
    "uneven": (npz(a=[1, 2], y=[1]), "its arrays are of unequal lengths: {'a': 2, 'y': 1}."),
    "pickle": (
        pickle.dumps([1]),
        "is no npz file of arrays (holds pickled objects, which could run code).",
    ),
    "cut off": (
        npz(a=[1, 2], y=[1, 2])[:-30],
        "is no npz file of arrays (File is not a zip file).",
    ),
    "empty": (npz(a=[], y=[]), "has no rows below the names of its columns."),
    "empty of two axes": (
        npz(a=np.zeros((0, 2)), y=[]),
        "has no rows below the names of its columns.",
    ),
    "nothing": (npz(), "has no column `y`. Available: none."),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archives(name: str, tmp_path: Path) -> None:
    content, message = ARCHIVES[name]
    path = write(tmp_path / "t.npz", content)
    assert refusal(table(path)) == f"path: {path}: {message}"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "no.csv")
    assert refusal(table(path)) == f"path: {path}: cannot be read (No such file or directory)."
    folder = refusal(table(write(tmp_path / "t.csv", PLAIN), test_path=str(tmp_path)))
    assert folder == f"test_path: {tmp_path}: cannot be read (Is a directory)."
    val = write(tmp_path / "v.csv", "a,b,y\n1,2,d\n")
    path = write(tmp_path / "t.csv", "a,b,y\n1,2,c\n1,2,e\n")
    unknown = f"val_path: {val}, line 2, column `y`: 'd' is a class that was not trained on.\n"
    told = refusal(table(path, classes=True, val_path=val))
    assert told == f"{unknown}Available: c, e."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"separator": ""}, "separator: '' is no mark between cells, such as `;`."),
        (
            {"separator": ",", "decimal": ","},
            "separator: ',' is no mark between cells, such as `;`.",
        ),
        ({"val_fraction": 0}, "val_fraction: 0 is not in (0, 1)."),
        ({"val_fraction": 0.8}, "val_fraction: 0.8 with test_fraction leaves no training."),
        ({"features": []}, "features: [] is empty. Leave it out for all."),
        ({"features": ["a", "y"]}, "features: `y` is the target. Leave it out."),
        ({"features": ["a", "a"]}, "features: `a` is given twice. Leave it out."),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        table("t.csv", **settings)
    assert str(error.value) == message


def test_tabs_and_decimal_commas(tmp_path: Path) -> None:
    """As a command line names them."""
    path = write(tmp_path / "t.tsv", PLAIN.replace(",", "\t").replace("3\t20", "3,5\t2e1"))
    data = table(path, separator=r"\t", decimal=",")
    assert data.read("train").inputs.tolist() == [[1, 10], [2, 30], [3.5, 20], [4, 40], [5, 50]]


def test_line_of_a_cell_far_down(tmp_path: Path) -> None:
    """Rows are read some thousand at a time."""
    path = write(tmp_path / "t.csv", "a,b,y\n" + "1,2,3\n" * 5000 + "1,2,3,4\n")
    wrong = "it has 4 columns, too many: the first row has 3."
    assert refusal(table(path)) == f"path: {path}, line 5002: {wrong}"
    write(tmp_path / "t.csv", "a,b,y\n" + "1,2,3\n" * 5000 + "1,x,3\n")
    assert "line 5002, column `b`: 'x'" in refusal(table(path))
    write(tmp_path / "t.csv", "a,b,y\n" + "1,2,3\n" * 5000)
    assert table(path).read("train").inputs.shape == (5000, 2)


def test_quotes_within_cells(tmp_path: Path) -> None:
    """Doubled ones, and those amid an unquoted cell, are text."""
    path = write(tmp_path / "t.csv", 'y,a\n"5"" disk",1\n5" disk,2\n"a, ""b""",3\n')
    data = table(path, classes=True)
    assert data.class_names == ['5" disk', 'a, "b"']
    assert data.read("train").targets.tolist() == [0, 0, 1]


def test_classes_that_are_missing(tmp_path: Path) -> None:
    """Whatever they are written as they are no classes, and dropped."""
    path = write(tmp_path / "t.csv", "y,a\nb,1\nNA,2\nnone,3\nc,4\n Null,5\nNaN,6\n,7\nn/a,8\n")
    data = table(path, classes=True, missing="drop")
    assert data.class_names == ["b", "c"]
    assert data.read("train").targets.tolist() == [0, 1]
    np.savez(tmp_path / "t.npz", y=[1, np.nan, 0], a=[1, 2, 3])
    data = table(str(tmp_path / "t.npz"), classes=True, missing="drop")
    assert data.class_names == ["0.0", "1.0"]
    assert data.read("train").inputs.tolist() == [[1], [3]]


def test_a_table_that_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many rows in another order are said, other columns are not; old states have no sum."""
    names, *rows = CLASSES.split()
    path = write(tmp_path / "t.csv", CLASSES)
    state = table(path, classes=True).state_dict()
    old = {name: value for name, value in state.items() if name != "crc"}
    has = "has other values, or rows in another order, than when the model was trained: "
    warning = f"warning: data.path: {path} {has}rows of training may be in other parts.\n"
    swapped = [",x,".join(row.split(",")[::-1]) for row in rows]
    for first, table_rows, known, said in (
        (names, rows, state, ""),
        ("a,n,y", swapped, state, ""),
        (names, rows[::-1], state, warning),
        ("a,n,y", [*swapped[:-1], "6.5,x,2"], state, warning),
        (names, rows[::-1], old, ""),
    ):
        write(tmp_path / "t.csv", "\n".join([first, *table_rows]))
        data = table(path, classes=True)
        data.load_state_dict(known)
        serve(data, "test")
        assert capsys.readouterr().err == said
        assert data.state_dict() == {**known, "crc": known.get("crc")}


def test_deviations_too_small_for_float32(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,y\n0,1\n2e-39,1\n0,1\n2e-39,1\n")
    small = "column `a` has a deviation of 1e-39, too small for float32. Multiply it by a constant."
    data = table(path, val_path=path, test_path=path)
    assert refusal(data) == f"path: {path}: {small}"


def test_targets_far_from_unit_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said of a network, once: of a linear model each scale is as easy, and a trained one knows."""
    path = write(tmp_path / "t.csv", "a,y\n1,299000\n2,301000\n3,299000\n4,301000\n")
    near = write(tmp_path / "n.csv", "a,y\n1,-900\n2,900\n3,-900\n4,900\n")
    wide = write(tmp_path / "w.csv", "a,y\n1,-1e4\n2,1e4\n3,-1e4\n4,1e4\n")
    linear = torch.nn.Sequential(torch.nn.Linear(1, 1))
    network = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.LazyLinear(1))
    state = table(path, val_path=path, test_path=path).state_dict()
    far = "warning: data.target: `y` is {}, far from 0 ± 1, where networks begin. Write it in "
    far += "another unit, such as thousands.\n"
    for source, model, known, said in (
        (path, network, {}, far.format("3e+05 ± 1e+03")),
        (wide, network, {}, far.format("0 ± 1e+04")),
        (near, network, {}, ""),
        (path, linear, {}, ""),
        (path, network, state, ""),
    ):
        data = table(source, val_path=source, test_path=source)
        data.trainer = trainer()
        data.trainer.lightning_module = model  # type: ignore[misc]
        if known:
            data.load_state_dict(known)
        data.setup("fit")
        assert capsys.readouterr().err == said


def test_classes_that_are_whole_numbers(tmp_path: Path) -> None:
    """A trained class `1` is meant by `1.0` too, unless that is a class of its own."""
    path = write(tmp_path / "t.csv", "y,a\n-1,1\n1,2\n2,3\n2.0,4\n1,5\nno,6\n")
    val = write(tmp_path / "v.csv", "y,a\n1.0,1\n-1.0,2\n2.0,3\n2,3\n")
    data = table(path, classes=True, val_path=val)
    assert data.class_names == ["-1", "1", "2", "2.0", "no"]
    assert data.read("val").targets.tolist() == [1, 0, 3, 2]
    for cell in ("1.5", "no.0", "3.0"):
        write(tmp_path / "v.csv", f"y,a\n{cell},1\n")
        unknown = f"{val}, line 2, column `y`: '{cell}' is a class that was not trained on."
        said = refusal(table(path, classes=True, val_path=val))
        assert said.splitlines()[0] == f"val_path: {unknown}"
