"""Exports of the tests' own model: what files hold, and that they compute what the model does."""

import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lightkeel.commands import export as command
from lightkeel.use import exports as exporting, paddle as paddle_weights
from lightkeel.use.predictor import Predictor, load
from src import export
from tests.lightkeel.commands import fails, state
from tests.lightkeel.test_hostile import MakesFolder
from tests.lightkeel.tiny import TinyModel

SAMPLES = torch.tensor([[2.0, 0.0, 0.0, 0.5], [0.0, 2.0, 0.0, -0.5], [1.0, 0.0, 2.0, 1e-3]])


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A finished run that may be written to."""
    return Path(shutil.copytree(tiny_run, tmp_path / "runs/tiny/run"))


def exported(run: Path, format_: str, *options: str) -> Path:
    assert export.main([str(run), "--format", format_, *options]) == 0
    (made,) = (run / "exports").iterdir()
    return made


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_torch(checkpoint: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = exported(run, "torch", "--checkpoint", checkpoint)
    assert path.name == f"{checkpoint}.pt2"
    assert "largest difference │ 0, on 10 random samples" in capsys.readouterr().out
    program = torch.export.load(path).module()
    wanted = load(run, checkpoint=checkpoint)(SAMPLES)
    for number in (1, 2, 3):
        torch.testing.assert_close(program(SAMPLES[:number]), wanted[:number])


def test_checkpoint_without_what_only_training_needs(run: Path) -> None:
    path = exported(run, "ckpt", "--checkpoint", "last")
    made = torch.load(path, weights_only=True)
    assert "optimizer_states" not in made
    whole = state(run)
    assert list(made["state_dict"]) == list(whole)
    assert all(torch.equal(made["state_dict"][name], whole[name]) for name in whole)
    again = TinyModel.load_from_checkpoint(path, weights_only=True).eval()
    torch.testing.assert_close(again(SAMPLES).softmax(1), load(run, checkpoint="last")(SAMPLES))


def test_what_differs_is_not_left(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that computes something else is no success, and an earlier file stays."""
    path = exported(run, "torch")
    before = path.read_bytes()
    write = exporting.WRITERS["torch"]
    monkeypatch.setitem(
        exporting.WRITERS, "torch", lambda p, file: lambda s: write(p, file)(s) + 1.1e-4
    )
    with pytest.raises(RuntimeError, match=r"The file's outputs differ from the model's by 0\.000"):
        export.main([str(run), "--format", "torch"])
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before
    assert "largest difference" not in capsys.readouterr().out.split("random samples")[-1]


def test_more_than_one_file(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written beside the file would be lost: refused."""
    write = exporting.WRITERS["torch"]

    def write_two(predictor: Predictor, path: Path) -> exporting.Compute:
        path.with_suffix(".data").touch()
        return write(predictor, path)

    monkeypatch.setitem(exporting.WRITERS, "torch", write_two)
    message = "--format torch: the model is too large for one file."
    fails(export.main, [str(run), "--format", "torch"], message, capsys)
    assert list((run / "exports").iterdir()) == []


def test_weights_for_paddle(tmp_path: Path) -> None:
    """Linear weights are turned, all others stay; there and back is the same."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    )
    translated = paddle_weights.to_paddle(network)
    assert {name: array.shape for name, array in translated.items()} == {
        "0.weight": (2, 1, 3, 3),
        "0.bias": (2,),
        "1.weight": (2,),
        "1.bias": (2,),
        "1._mean": (2,),
        "1._variance": (2,),
        "3.weight": (8, 3),
        "3.bias": (3,),
    }
    weight = network.state_dict()["3.weight"]
    assert translated["3.weight"][5, 1] == weight[1, 5]
    path = tmp_path / "x.pdparams"
    paddle_weights.write(path, translated)
    back = paddle_weights.from_paddle(paddle_weights.read(path), network)
    wanted = network.state_dict()
    assert list(back) == list(wanted)
    assert all(torch.equal(back[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_import_from_paddle(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights from elsewhere, with the configuration of the model, make a checkpoint."""
    predictor = load(run)
    network = paddle_weights.network_of(predictor.model)
    weights = paddle_weights.to_paddle(network)
    weights["0.weight"] = weights["0.weight"] + 1
    path = tmp_path / "theirs.pdparams"
    paddle_weights.write(path, weights)
    config = ["--config", str(run / "config.yaml")]
    assert export.main([str(path), *config, "--format", "ckpt"]) == 0
    made = torch.load(tmp_path / "theirs.ckpt", weights_only=True)["state_dict"]
    ours = state(run, "best.ckpt")
    assert torch.equal(made["network.0.weight"], ours["network.0.weight"] + 1)
    assert torch.equal(made["network.3.weight"], ours["network.3.weight"])

    def expect(message: str) -> None:
        fails(export.main, [str(path), *config, "--format", "ckpt"], message, capsys)

    weights["0.weight"] = weights["0.weight"].T
    paddle_weights.write(path, weights)
    other = f"RUN {path}: is not of this model:"
    expect(f"{other} `0.weight` is (6, 4) there and (4, 6) here.")
    del weights["0.weight"]
    paddle_weights.write(path, weights)
    expect(f"{other} `0.weight` is missing there and (4, 6) here.")
    paddle_weights.write(path, {**paddle_weights.to_paddle(network), "9.bias": np.zeros(3)})
    expect(
        f"RUN {path}: is not of this model: `9.bias` is there, and the model has no such weight."
    )


def test_pickles_run_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    payload, path = MakesFolder(tmp_path / "made by the payload"), tmp_path / "x.pdparams"
    args = [str(path), "--config", str(run / "config.yaml"), "--format", "ckpt"]
    refused = f"RUN {path}: is no file of weights"
    for odd in (b"", b"\x80", b"\x80\x04]q\x00.", b"hello", pickle.dumps(3), b"\x80\x04cos\n"):
        path.write_bytes(odd)
        with pytest.raises(ValueError, match=re.escape(refused)):
            paddle_weights.read(path)
    for content in (payload, {"0.weight": payload}, {"0.weight": np.array([payload])}):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=re.escape(f"{refused} (holds `posix.mkdir`")):
            paddle_weights.read(path)
    fails(export.main, args, f"{refused} (holds `posix.mkdir`…", capsys)
    assert not payload.folder.exists()


def test_bad_input(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def expect(message: str, *args: str) -> None:
        fails(export.main, [str(run), *args], message, capsys)
        assert not (run / "exports").exists()

    known = "Available: ckpt, onnx, paddle, safetensors, torch."
    expect(f"--format onx: is no choice. Did you mean `onnx`? {known}", "--format", "onx")
    usage = f"See python -m {export.__name__} --help."
    expect(f"the following arguments are required: --format. {usage}")
    best = run / "checkpoints/best.ckpt"
    itself = f"--output {best}: is what is exported. Choose another file."
    expect(itself, "--format", "ckpt", "--output", str(best))
    config = run / "config.yaml"
    of_run = f"--output {config}: is a file of a run. Choose another."
    expect(of_run, "--format", "torch", "--output", str(config))
    expect(
        f"--output {run}: is a folder. Give the name of a file.",
        *("--format", "torch", "--output", str(run)),
    )


def test_place_that_is_taken(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "exports").touch()
    message = f"--output {run}/exports/best.pt2: cannot be written (File exists)."
    fails(export.main, [str(run), "--format", "torch"], message, capsys)


def test_model_that_does_not_tell_its_size(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Predictor, "num_features", None)
    message = (
        "model: TinyModel does not tell how many numbers it takes. Give it a hyperparameter "
        "`num_features`."
    )
    fails(export.main, [str(run), "--format", "torch"], message, capsys)


@pytest.mark.parametrize(
    ("format_", "package", "extra"),
    [
        ("onnx", "onnxruntime", "export"),
        ("safetensors", "safetensors", "export"),
        ("paddle", "paddle", "paddle"),
    ],
)
def test_missing_package(
    format_: str,
    package: str,
    extra: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == package else name)
    message = f"--format {format_}: needs the package {package}, which is not installed.\n"
    install = f"  Install it: make setup ADD={extra}"
    fails(export.main, [str(run), "--format", format_], message + install, capsys)


@pytest.mark.extras
def test_onnx(run: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = exported(run, "onnx")
    session = onnxruntime.InferenceSession(path)
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1]) == ("samples", "tensor(float)", 4)
    assert result.name == "probabilities"
    wanted = load(run)(SAMPLES).numpy()
    for number in (1, 3):
        (found,) = session.run(None, {"samples": SAMPLES[:number].numpy()})
        np.testing.assert_allclose(found, wanted[:number], atol=1e-6)
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["class_names"]) == ["0", "1", "2"]
    assert known["model"] == "TinyModel"


@pytest.mark.extras
@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_safetensors(checkpoint: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = exported(run, "safetensors", "--checkpoint", checkpoint)
    weights, saved = safetensors.load_file(path), state(run, f"{checkpoint}.ckpt")
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], saved[name]) for name in saved)
    # And back: a file in a run's folder belongs to its configuration.
    assert export.main([str(path), "--format", "ckpt"]) == 0
    assert path.stat().st_mode == (run / "config.yaml").stat().st_mode
    made = torch.load(path.with_name(f"{checkpoint}.ckpt"), weights_only=True)["state_dict"]
    assert all(torch.equal(made[name], saved[name]) for name in saved)
    capsys.readouterr()
    path.write_bytes(path.read_bytes()[:-9])
    message = f"RUN {path}: is no file of weights (…"
    fails(export.main, [str(path), "--format", "ckpt"], message, capsys)


@pytest.mark.paddle
def test_paddle(run: Path) -> None:
    pytest.importorskip("paddle")
    path = exported(run, "paddle")
    assert path.name == "best.pdparams"
    weight = state(run, "best.ckpt")["network.0.weight"]
    np.testing.assert_array_equal(paddle_weights.read(path)["0.weight"], weight.numpy().T)


def test_model_that_gives_no_numbers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = paddle_weights.to_paddle(paddle_weights.network_of(load(run).model))
    weights["0.bias"][0] = np.nan
    path = run.parent / "broken.pdparams"
    paddle_weights.write(path, weights)
    message = "RUN: the model's outputs are NaN or infinite. Export another."
    args = [str(path), "--config", str(run / "config.yaml"), "--format", "ckpt"]
    fails(export.main, args, message, capsys)
    assert list(run.parent.glob("broken*")) == [path]
