"""Labs: each runs, and each has its pages."""

import json
import math
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from labs import page
from labs.__main__ import main
from labs.lab import Lab, Result, metrics, options
from labs.registry import LABS
from src.train import main as train
from tests.lightkeel.places import ROOT

# With the link to a page in the other language.
PAGES = {"docs/labs": "](../zh/labs/{}.md)", "docs/zh/labs": "](../../labs/{}.md)"}
TRAINING = re.compile(r"(?m)^ *(python -m src\.train .*)$")


@pytest.mark.slow
@pytest.mark.parametrize("name", LABS)
def test_each_runs_and_leaves_its_pages_as_they_are(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "search":
        pytest.importorskip("optuna")
    before = [(ROOT / folder / f"{name}.md").read_bytes() for folder in PAGES]
    assert main([name, "--quick"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 5  # name, heading, line, two rows
    assert [(ROOT / folder / f"{name}.md").read_bytes() for folder in PAGES] == before


@pytest.mark.parametrize("folder", PAGES)
def test_each_has_a_page_with_its_commands_and_stands_in_the_list(folder: str) -> None:
    texts = {path.stem: path.read_text("utf-8") for path in (ROOT / folder).glob("*.md")}
    listed = re.findall(r"(?m)^- \[.*?\]\((\w+)\.md\)", texts.pop("README"))
    assert sorted(listed) == sorted(texts) == sorted(LABS)
    for name, text in texts.items():
        assert f"\n    python -m labs {name}\n" in text
        assert PAGES[folder].format(name) in text
        assert text.count("<!-- results -->\n|") == 1, f"{name}: no results"
        commands = TRAINING.findall(re.sub(r" \\\n *", " ", text))
        assert set(commands) <= set(LABS[name].commands()), f"{name}: no lab's command"


@pytest.mark.slow
def test_a_lab_trains_each_row_with_each_seed(tmp_path: Path) -> None:
    epoch = "--trainer.max_epochs 1"
    lab = Lab(epoch, options("", "--model.optimizer.lr 1e-9"), metrics("test/loss"), seeds=2)
    found = {row: values["`test/loss`"] for row, values in lab.results().table.items()}
    assert train([*epoch.split(), "--seed_everything", "1", "--runs_dir", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*/*/metrics.json")
    assert found["``"][1] == json.loads(file.read_text())["test/loss"]
    # Untrained: mean squares of 2, -3.4 and 4.2, about 33, and no two seeds alike.
    assert all(20 < loss < 50 for loss in found["`--model.optimizer.lr 1e-9`"])
    assert len({loss for losses in found.values() for loss in losses}) == 4


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_nan_and_bad_input_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lab = Lab(
        "--callbacks.gradient_clipping null",
        {"x": "--model.optimizer.lr 1e9"},
        metrics("test/loss"),
        seeds=1,
    )
    assert math.isnan(lab.results().table["x"]["`test/loss`"][0])
    with pytest.raises(SystemExit) as stop:
        Lab("--model.nosuch 1", {"x": ""}, {}, seeds=1).results()
    assert stop.value.code == 2
    assert "model.nosuch: LinearRegression has no such option." in capsys.readouterr().err


def test_results_are_written_between_the_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"en": tmp_path / "docs" / "labs", "zh": tmp_path / "docs" / "zh" / "labs"}
    monkeypatch.setattr(page, "FOLDERS", folders)
    for folder in folders.values():
        folder.mkdir(parents=True)
        text = "a\n<!-- results -->\nold\n<!-- end of results -->\nb\n"
        (folder / "one.md").write_text(text, "utf-8")
    page.write("one", Result({"`x`": {"acc": [1.0, 2.0]}}, Figure()), 61.4, 0.25)
    head = "a\n<!-- results -->\n|  | acc |\n| --- | --- |\n| `x` | 1.50 ± 0.71 |\n\n"
    english, chinese = ((folder / "one.md").read_text("utf-8") for folder in folders.values())
    assert english.startswith(f"{head}![one](one.png)\n\nMean ± standard deviation, n = 2. ")
    assert chinese.startswith(f"{head}![one](../../labs/one.png)\n\n均值 ± 标准差，n = 2。")  # noqa: RUF001
    assert " 61 s for all.\n<!-- end of results -->\nb\n" in english
    assert (folders["en"] / "one.png").stat().st_size > 0
    (folders["zh"] / "one.md").write_text("no marks")
    with pytest.raises(ValueError, match="has 0 places for results"):
        page.write("one", Result({"`x`": {"acc": [1.0]}}), 1, 0)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.7131, 0.7231, 0.7031], "0.713 ± 0.010"),
        ([1234.0, 1334.0], "1284 ± 71"),
        ([0.5], "0.5"),
        ([0.5, float("nan"), 0.7], "0.60 ± 0.14 (2/3)"),
        ([float("nan"), float("inf")], "NaN"),
        ([1e-9, 3e-9], "2.00e-09 ± 1.4e-09"),
        ([3.14159, 3.14159], "3.142"),
    ],
)
def test_a_cell_has_two_digits_of_the_deviation(values: list[float], text: str) -> None:
    assert page.cell(values) == text


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["batch_nrom"])
    assert stop.value.code == 2
    said = f"error: batch_nrom: is no lab. Use one of {', '.join(LABS)}.\n"
    assert capsys.readouterr().err == said
