"""Commands in the documentation work as they are typed, or say why they are not run."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from lightkeel import load
from tests.lightkeel.places import CONFIGS, DEFAULT_CONFIG, ROOT
from tests.lightkeel.small import make_images

PAGES = [*ROOT.glob("README*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
# What sets a machine up: .ci/run and tests/template/ do so.
SET_UP = ("make ", "source ", "cd ", "pip ", "cookiecutter ")
COMMAND = re.compile(r"    ([a-z][\w-]+ .*)")
QUICK = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
QUICK += ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]
QUICK += ["--callbacks.plots", "null", "--trainer.accelerator", "cpu", "--data.batch_size", "4"]
OF_IMAGES = ["--data.val_batch_size", "4"]
# Where a page has a word that stands for something.
MEANT = {
    "RUN rows.csv": "linear_regression/first rows.csv",
    "RUN": "cifar10/NAME",
    "--keep id": "--columns x1,x2 --keep id",
    "--min test/r2=0.9": "--min test/r2=-1000",  # of two steps
    "--max test/loss=1.0": "--max test/loss=1000",
    "--data.target price --model.num_features 7": "--data.target price --model.num_features 2",
}


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """List commands in indented blocks, and what a comment before the block says of them."""
    for note, block in re.findall(
        r"(?:<!-- ((?:not )?run[^>]*) -->\n\n)?((?:^    .*\n)+)", page.read_text(), re.M
    ):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if found := COMMAND.fullmatch(line):
                command = re.split(r"\s{3,}|\s+#", found[1])[0]
                is_command = re.match(r"(python -m|make|torchrun|sbatch|tensorboard)\b", command)
                if is_command or command.split()[0] in ("optuna-dashboard", "createdb"):
                    yield command, note


def to_run(page: Path) -> list[str]:
    return [c for c, note in commands(page) if not note and not c.startswith(SET_UP)]


TO_RUN = {page.relative_to(ROOT).as_posix(): to_run(page) for page in PAGES}
# Those of labs are run by test_labs.py.
ENGLISH = {n: found for n, found in TO_RUN.items() if found and not re.search("zh|labs/", n)}


def test_every_command_is_run_or_says_why_not() -> None:
    assert {name: len(found) for name, found in ENGLISH.items()} == {
        "README.md": 8,
        "docs/commands.md": 14,
        "docs/first_hour.md": 11,
        "docs/production.md": 4,
        "docs/your_callback.md": 1,
        "docs/your_data.md": 3,
    }
    for page in PAGES:
        for _, note in commands(page):
            for file in re.findall(r"tests/[\w/]+(?:\.py)?", note):
                assert (ROOT / file).exists(), f"{page}: {note}"


@pytest.mark.parametrize(
    ("english", "chinese"),
    [("README.md", "README.zh-CN.md"), ("docs/first_hour.md", "docs/zh/first_hour.md")],
)
def test_chinese_pages_have_the_same_commands(english: str, chinese: str) -> None:
    assert TO_RUN[english] == TO_RUN[chinese]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", ENGLISH)
def test_commands_of_a_page_work_in_their_order(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS)
    make_images(tmp_path / "data/cifar10", num_classes=10)
    for name in ("a", "b", "c"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (40, 48), (30 * number, 0, 0)).save(f"photos/{name}/{number}.png")
    Image.new("RGB", (50, 40)).save("more.jpg")
    (tmp_path / "rows.csv").write_text("id,x1,x2\n1,0.5,1\n")
    rows = [f"{n},{n % 3},{n + n % 2}" for n in range(40)]
    (tmp_path / "my.csv").write_text("\n".join(["size,rooms,price", *rows]))
    if page in ("docs/commands.md", "docs/production.md"):
        run("python -m src.train --run_name first")
    for command in ENGLISH[page]:
        run(command)


def run(command: str) -> None:
    for word, meant in MEANT.items():
        command = re.sub(rf"(?<!\S){re.escape(word)}(?!\S)", meant, command, count=1)
    if "cifar10/NAME" in command:
        (newest,) = sorted(Path("runs/cifar10").iterdir(), key=lambda p: p.stat().st_mtime)[-1:]
        command = command.replace("NAME", newest.name)
    _, _, module, *args = shlex.split(command)
    if module.endswith(".train"):
        args += QUICK + OF_IMAGES * ("cifar10" in command)
    assert import_module(module).main(args) == 0, command


def test_all_configs_are_named() -> None:
    text = "".join(page.read_text() for page in PAGES)
    names = [path.stem for path in CONFIGS.glob("*.yaml") if path.stem != DEFAULT_CONFIG]
    assert [name for name in names if f"--config {name}" not in text] == []


def test_the_reference_lists_the_public_names() -> None:
    from lightkeel import PUBLIC

    expected = {f"lightkeel.{module}.{name}" for name, module in PUBLIC.items()}
    shown = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference.md").read_text(), re.M)
    assert {*shown} == expected | {"lightkeel.project.Project"}


@pytest.mark.extras
def test_the_site_builds_with_strict_links(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT)
    assert "training_step" in (tmp_path / "first_hour/index.html").read_text()
    assert "works where a run is resumed" in (tmp_path / "reference/index.html").read_text()


@pytest.mark.extras
def test_an_export_is_served_in_ten_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/production.md").read_text(), re.S)
    assert len(code.partition("\n\nsession")[2].splitlines()) <= 10
    (tmp_path / "serve.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "data/cifar10", num_classes=10)
    run("python -m src.train --config cifar10 --run_name NAME")
    run("python -m src.export cifar10/NAME --format onnx --output best.onnx")
    pixels = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(pixels[None], (40, 48), mode="bicubic")[0].clamp(0, 1)
    Image.fromarray((255 * smooth).byte().permute(1, 2, 0).numpy()).save("photo.png")
    served = subprocess.run(
        [sys.executable, "serve.py", "best.onnx", "photo.png"], capture_output=True, check=True
    )
    (found,) = json.loads(served.stdout)
    predictor = load("runs/cifar10/NAME")
    expected = predictor(predictor.read("photo.png")[None])[0].tolist()
    assert found == pytest.approx(expected, abs=0.01)
