"""Trained image models in use: evaluated by class, predicting for files, exported."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightkeel.use import paddle as paddle_weights
from lightkeel.use.predictor import load
from src import evaluate, export, predict
from src.models import SimpleCNN
from src.train import main as train
from tests.lightkeel.commands import experiment, fails
from tests.lightkeel.test_image_experiments import TINY_IMAGES

CLASSES = ["blue", "green", "red"]
SHADES = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of three colours, which it tells apart."""
    folder = tmp_path_factory.mktemp("colours")
    random = np.random.default_rng(0)
    for name, shade in SHADES.items():
        (folder / "images" / name).mkdir(parents=True)
        for number in range(40):
            noise = random.integers(-40, 40, (20, 28, 3))
            pixels = np.clip(np.array(shade) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{number:02}.png")
    data = ["--data", "ImageFolderDataModule", "--data.roots", f"[{folder}/images]"]
    sizes = [
        "--data.image_size_px",
        "16",
        "--model.image_size_px",
        "16",
        "--model.num_classes",
        "3",
    ]
    small = ["--model.channels", "[4,4]", "--data.batch_size", "8", "--trainer.max_epochs", "3"]
    where = ["--runs_dir", str(folder / "runs"), "--run_name", "run"]
    assert train([*experiment("cifar10_synthetic"), *data, *sizes, *small, *where]) == 0
    return folder / "runs/cifar10_synthetic/run"


@pytest.mark.slow
def test_evaluate_by_class(colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(colours), "--split", "val"]) == 0
    out = capsys.readouterr().out
    metrics = json.loads((colours / "evaluation/best/val/metrics.json").read_text())
    shares = {name: metrics[f"val/acc/{name}"] for name in CLASSES}
    assert shares == {"blue": 1.0, "green": 1.0, "red": 1.0}
    assert metrics["val/acc"] == 1.0
    assert metrics["checkpoint"] == str(colours / "checkpoints/best.ckpt")
    assert all(f"│ {name:5} │ 1.0000   │ " in out for name in CLASSES)


def test_evaluate_counts_mistakes(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other data by flags: three reds among the blue images are taken for red."""
    other = tmp_path / "other"
    for name, count in {"blue": 6, "green": 4, "red": 2}.items():
        (other / "test" / name).mkdir(parents=True)
        for file in sorted((colours.parents[2] / "images" / name).iterdir())[:count]:
            shutil.copy(file, other / "test" / name)
    shutil.copytree(other / "test", other / "train")
    for file in sorted((colours.parents[2] / "images/red").iterdir())[10:13]:
        shutil.copy(file, other / "test/blue" / f"red{file.name}")
    output = tmp_path / "metrics.json"
    given = [str(colours), "--data.roots", f"[{other}]", "--output", str(output)]
    assert evaluate.main(given) == 0
    metrics = json.loads(output.read_text())
    assert metrics["test/acc/blue"] == pytest.approx(6 / 9)
    assert metrics["test/acc/green"] == metrics["test/acc/red"] == 1.0
    assert metrics["test/acc"] == pytest.approx(12 / 15)
    out = capsys.readouterr().out
    assert "│ blue  │ 0.6667   │ 6 of 9 │ red (3)" in out
    assert not (colours / "evaluation/best/test").exists()
    config = colours / "config.yaml"
    message = f"--output {config}: is a file of a run. Choose another."
    fails(evaluate.main, [str(colours), "--output", str(config)], message, capsys)


def sorted_otherwise(colours: Path, folder: Path, **names: str) -> list[str]:
    """Copy some images of some classes under other names; return options that read them."""
    for name, other in names.items():
        files = sorted((colours.parents[2] / "images" / name).iterdir())[:6]
        for split in ("train", "test"):
            (folder / split / other).mkdir(parents=True)
            for file in files:
                shutil.copy(file, folder / split / other)
    return ["--data.roots", f"[{folder}]"]


def unfinished(colours: Path, folder: Path) -> Path:
    """Copy the run as if it had been killed before its test."""
    run = Path(shutil.copytree(colours, folder / "cifar10_synthetic/run"))
    (run / "metrics.json").unlink()
    return run


@pytest.mark.slow
def test_classes_are_known_by_name(colours: Path, tmp_path: Path) -> None:
    """Two of three, which by themselves would be numbers 0 and 1."""
    roots = sorted_otherwise(colours, tmp_path / "images", red="red", green="green")
    output = tmp_path / "metrics.json"
    assert evaluate.main([str(colours), *roots, "--output", str(output)]) == 0
    metrics = json.loads(output.read_text())
    assert metrics["test/acc"] == metrics["test/acc/green"] == metrics["test/acc/red"] == 1.0
    assert "test/acc/blue" not in metrics
    run = unfinished(colours, tmp_path)
    where = ["--resume", str(run), "--runs_dir", str(tmp_path)]
    assert train([*where, *roots]) == 0
    assert json.loads((run / "metrics.json").read_text())["test/acc"] == 1.0


@pytest.mark.slow
def test_classes_that_the_model_does_not_know(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = sorted_otherwise(colours, tmp_path / "images", red="red", green="grass", blue="sky")
    run = unfinished(colours, tmp_path)
    resume = ["--resume", str(run), "--runs_dir", str(tmp_path)]
    for main, args, path in [
        (evaluate.main, [str(run)], run / "checkpoints/best.ckpt"),
        (train, resume, run / "checkpoints/last.ckpt"),
    ]:
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            main([*args, *roots])
        error = capsys.readouterr().err.partition("error: ")[2]
        assert error == (
            "data: has classes that the model does not know: grass, sky.\n"
            f"  It knows: blue, green, red (from {path}).\n"
            "  Rename what is the same, and leave out the rest.\n"
        )
    assert not (run / "metrics.json").exists()
    shutil.rmtree(tmp_path / "images/test")
    # Of predictions the names are those of training, whatever the folders are called now.
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["init_args"]["roots"] = [str(tmp_path / "images/train")]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert load(run).class_names == CLASSES


def test_predict_files(colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    Image.new("RGB", (100, 50), SHADES["green"]).save(photos / "a.png")
    Image.new("L", (5, 5), 0).save(photos / "grey.jpg")  # no colour, and smaller
    Image.new("RGB", (16, 16), SHADES["red"]).save(photos / "more/rouge é.png")
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:60])
    (photos / "notes.txt").write_text("no image")
    shutil.copy(photos / "a.png", photos / "unnamed")
    output = tmp_path / "out.csv"
    assert predict.main([str(colours), str(photos), "--output", str(output)]) == 0
    rows = list(csv.DictReader(output.open(encoding="utf-8")))
    names = ["a.png", "broken.png", "grey.jpg", "more/rouge é.png", "unnamed"]
    assert [row["file"] for row in rows] == [str(photos / name) for name in names]
    assert [row["label"] for row in rows][::3] == ["green", "red"]
    assert rows[4]["label"] == "green"
    assert rows[1]["error"].startswith(f"{photos}/broken.png is not a readable image: ")
    assert rows[1]["label"] == ""
    assert capsys.readouterr().err == (
        f"warning: INPUT {photos}: passed over 1, not readable as images: photos/notes.txt\n"
        "warning: 1 of 5 could not be read: see `error` in their rows.\n"
    )
    predictor = load(colours)
    assert predictor.class_names == CLASSES
    image = predictor.read(photos / "a.png")
    assert image.shape == (16, 16, 3)
    assert image.dtype == torch.uint8
    found = predictor(image[None])[0]
    assert float(found.max()) == pytest.approx(float(rows[0]["probability"]), rel=1e-5)

    (photos / "notes.txt").unlink()
    itself = photos / "unnamed"
    message = f"--output {itself}: is an input. Choose another file."
    fails(predict.main, [str(colours), str(photos), "--output", str(itself)], message, capsys)
    message = "--columns: is for CSV files, and the model takes images."
    fails(predict.main, [str(colours), str(photos), "--columns", "a"], message, capsys)
    message = "--header: is for CSV files, and the model takes images."
    fails(predict.main, [str(colours), str(photos), "--header", "no"], message, capsys)
    # The names are in the checkpoint: the images it was trained on need not be here.
    moved = Path(shutil.copytree(colours, tmp_path / "moved"))
    config = (moved / "config.yaml").read_text()
    assert config.count(str(colours.parents[2] / "images")) == 1
    gone = config.replace(str(colours.parents[2] / "images"), str(tmp_path / "gone"))
    (moved / "config.yaml").write_text(gone)
    assert load(moved).class_names == CLASSES
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(predict.main, [str(colours), str(empty)], f"INPUT {empty}: holds no images.", capsys)


def test_predictions_are_what_the_test_counts(colours: Path, tmp_path: Path) -> None:
    """The same pixels and the same preprocessing: of all images, as many are right."""
    images, output = colours.parents[2] / "images", tmp_path / "out.jsonl"
    given = [str(colours), str(images), "--output", str(output), "--batch_size", "7"]
    assert predict.main(given) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 120
    assert sum(Path(row["file"]).parent.name == row["label"] for row in rows) == 120


def test_torch_program_takes_bytes(colours: Path, tmp_path: Path) -> None:
    path = tmp_path / "colours.pt2"
    given = [str(colours), "--format", "torch", "--output", str(path)]
    assert export.main(given) == 0
    known = {"metadata": "", "class_names": ""}
    program = torch.export.load(path, extra_files=known).module()
    image = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    image[..., 2] = 200
    found = program(image)[0]
    assert found.shape == (3,)
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)
    assert json.loads(known["class_names"])[int(found.argmax())] == "blue"


@pytest.mark.extras
def test_names_of_classes_come_back(colours: Path, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    given, config = tmp_path / "theirs.safetensors", ["--config", str(colours / "config.yaml")]
    export.main([str(colours), "--format", "safetensors", "--output", str(given)])
    assert export.main([str(given), *config, "--format", "ckpt"]) == 0
    made = torch.load(tmp_path / "theirs.ckpt", weights_only=True)
    assert made["class_names"] == CLASSES


@pytest.mark.extras
@pytest.mark.parametrize(
    "args",
    [
        ["cifar10_synthetic", "--model.channels", "[4,4]", "--model.batch_norm", "true"],
        *(
            ["cifar10_fast", "--model.widths", "[4,4,4]", "--model.sure_above", sure]
            for sure in ("0.15", "1.0")
        ),
    ],
    ids=["SimpleCNN", "FastCNN, some shifted", "FastCNN, all shifted"],
)
def test_onnx_takes_bytes(args: list[str], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    data = ["--data", "SyntheticImageDataModule", *TINY_IMAGES[2:12], "--trainer.max_epochs", "1"]
    where = ["--runs_dir", str(tmp_path), "--run_name", "run"]
    assert train([*experiment(args[0]), *args[1:], *data, *where]) == 0
    run = tmp_path / args[0] / "run"
    assert export.main([str(run), "--format", "onnx"]) == 0
    session = onnxruntime.InferenceSession(run / "exports/best.onnx")
    assert session.get_inputs()[0].type == "tensor(uint8)"
    predictor = load(run)
    for number in (1, 5):
        images = predictor.random_samples(number, seed=9)
        (found,) = session.run(None, {"samples": images.numpy()})
        np.testing.assert_allclose(found, predictor(images).numpy(), atol=1e-5)


@pytest.mark.paddle
@pytest.mark.parametrize("activation", ["relu", "identity"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_paddle_computes_the_same(activation: str, batch_norm: bool, tmp_path: Path) -> None:
    """Weights there, and weights from there."""
    paddle = pytest.importorskip("paddle")
    settings = ["--model.activation", activation, "--model.batch_norm", str(batch_norm)]
    where = ["--runs_dir", str(tmp_path), "--run_name", "run"]
    assert train([*TINY_IMAGES, *settings, "--model.dropout", "0.1", *where]) == 0
    run = tmp_path / "cifar10_synthetic/run"
    assert export.main([str(run), "--format", "paddle"]) == 0
    model = SimpleCNN.load_from_checkpoint(run / "checkpoints/best.ckpt", weights_only=True).eval()
    theirs = paddle_weights.paddle_network(paddle_weights.network_of(model))
    theirs.set_state_dict(paddle.load(str(run / "exports/best.pdparams")))
    theirs.eval()
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def outputs() -> Any:
        return theirs(paddle.to_tensor(images.numpy())).numpy()

    with torch.no_grad():
        np.testing.assert_allclose(outputs(), model(images).numpy(), atol=1e-5, rtol=0)

    # Trained a little there, saved by Paddle itself, and back.
    theirs.train()
    optimizer = paddle.optimizer.SGD(0.01, parameters=theirs.parameters())
    theirs(paddle.to_tensor(images.numpy())).square().mean().backward()
    optimizer.step()
    theirs.eval()
    path = tmp_path / "theirs.pdparams"
    paddle.save(theirs.state_dict(), str(path))
    config = ["--config", str(run / "config.yaml")]
    assert export.main([str(path), *config, "--format", "ckpt"]) == 0
    back = SimpleCNN.load_from_checkpoint(tmp_path / "theirs.ckpt", weights_only=True).eval()
    with torch.no_grad():
        np.testing.assert_allclose(outputs(), back(images).numpy(), atol=1e-5, rtol=0)
        assert float((back(images) - model(images)).abs().max()) > 1e-4
