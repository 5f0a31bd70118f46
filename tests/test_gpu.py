"""The commands on a GPU: that of the machine, or where it has none, a pretended one."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from src import data, evaluate, export, models, predict
from src.callbacks import GradientClipping
from src.callbacks.nonfinite import nonfinite_weights
from src.find import CONFIGS
from src.predictor import load
from src.train import main as train
from tests.commands import TRAIN, alone_and_together, assert_close, devices, stop_in_step
from tests.conftest import TINY
from tests.pretended_gpu import PretendedGPU, pretended_gpu
from tests.small import small
from tests.soak import content, differences
from tests.test_configs import EXPERIMENTS

IMAGES = [
    *("--config", "cifar10_synthetic", "--data.num_samples", "64", "--data.num_val_samples", "16"),
    *("--data.num_test_samples", "16", "--data.batch_size", "16", "--model.channels", "[4,4]"),
]


@contextmanager
def any_gpu() -> Iterator[PretendedGPU | None]:
    """Use the GPU of this machine, or a pretended one."""
    if torch.cuda.is_available():
        yield None
        torch.use_deterministic_algorithms(False)
    else:
        with pretended_gpu() as pretended:
            yield pretended


@pytest.fixture
def gpu() -> Iterator[PretendedGPU | None]:
    with any_gpu() as found:
        yield found


class Waits(Callback):
    """Note how often the host had waited when a batch began, by epoch and optimizer steps."""

    gpu: ClassVar[PretendedGPU]
    so_far: ClassVar[dict[tuple[int, int], int]]

    @classmethod
    def watch(cls, gpu: PretendedGPU) -> list[str]:
        """Return options that have a run watched."""
        cls.gpu, cls.so_far = gpu, {}
        return ["--trainer.callbacks+", f"{__name__}.Waits"]

    @classmethod
    def in_steps(cls, log_every: int, is_due: bool) -> list[Any]:
        """List waits in steps whose row of metrics is due, or is not.

        Of an epoch, its first step, which is shown in pictures, and its last are left out.
        """
        return [
            wait
            for (epoch, step), before in cls.so_far.items()
            if (epoch, step - 1) in cls.so_far and (epoch, step + 1) in cls.so_far
            if ((step + 1) % log_every == 0) == is_due
            for wait in cls.gpu.waits[before : cls.so_far[epoch, step + 1]]
        ]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.so_far[trainer.current_epoch, trainer.global_step] = len(self.gpu.waits)


def images_of(folder: Path, number: int = 3) -> list[str]:
    """Make image files, and return their paths."""
    paths = [folder / f"{place}.png" for place in range(number)]
    for place, path in enumerate(paths):
        Image.new("RGB", (32, 32), (80 * place, 0, 255 - 80 * place)).save(path)
    return [str(path) for path in paths]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_trains(
    name: str,
    gpu: PretendedGPU | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    cls = getattr(data, given["data"]["class_path"])
    num_classes = given["model"].get("init_args", {}).get("num_classes", 10)
    args = ["--config", name, "--trainer.max_epochs", "1", "--run_name", "r"]
    args += ["--trainer.accelerator", "gpu", "--trainer.log_every_n_steps", "3"]
    for option, value in small(cls, tmp_path / "images", num_classes).items():
        args += [f"--data.{option}", str(value)]
    if gpu is not None:
        args += Waits.watch(gpu)
    assert train(args) == 0
    run = tmp_path / "runs" / name / "r"
    assert json.loads((run / "metrics.json").read_text())["epochs"] == 1
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    drawn = {path.stem for path in (run / "plots").iterdir()}
    assert drawn >= {"loss", "fit" if name == "linear_regression" else "worst"}
    printed = capfd.readouterr()
    assert "LOCAL_RANK" not in printed.out + printed.err
    if gpu is not None:
        assert Waits.in_steps(3, is_due=True), "a row of metrics cannot be had without a wait"
        assert Waits.in_steps(3, is_due=False) == []
        assert gpu.doubles == []  # which Apple's GPUs lack


@pytest.mark.parametrize(
    ("precision", "fused"),
    [("bf16-mixed", "false"), ("16-mixed", "false"), ("16-mixed", "true")],
)
def test_mixed_precision(
    precision: str, fused: str, gpu: PretendedGPU | None, tmp_path: Path
) -> None:
    args = [*IMAGES, "--trainer.max_epochs", "1", "--trainer.precision", precision]
    args += ["--trainer.log_every_n_steps", "3", "--runs_dir", str(tmp_path), "--run_name", "r"]
    args += ["--model.optimizer", f"{{name: AdamW, lr: 0.004, fused: {fused}}}"]
    if fused == "true":
        args += ["--callbacks.gradient_clipping", "null"]  # it refuses both together
    if gpu is not None:
        args += Waits.watch(gpu)
    assert train(args) == 0
    metrics = json.loads((tmp_path / "cifar10_synthetic/r/metrics.json").read_text())
    assert 0 < metrics["test/loss"] < 10
    # Without a fused optimizer, the scaler asks in each step whether to leave it out.
    if gpu is not None and (fused == "true" or precision == "bf16-mixed"):
        assert Waits.in_steps(3, is_due=False) == []


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            [
                *("--callbacks.gradient_accumulation.batches", "2", "--data.batch_size", "8"),
                *("--model.lr_scheduler", "{name: ReduceLROnPlateau, patience: 0, threshold: 1.0}"),
                *("--model.optimizer", "{name: AdamW, lr: 0.01, fused: true}"),
            ],
            id="accumulation, plateau, fused",
        ),
        pytest.param(
            ["--model.optimizer", "{name: AdamW, lr: 0.01, capturable: true}"],
            id="capturable",
        ),
        pytest.param(
            [
                "--model.optimizer",
                "{name: MuonSGD, lr: 0.05}",
                "--callbacks.lookahead.decay",
                "0.5",
            ],
            id="Muon, look-ahead",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
def test_resumes_within_an_epoch(
    options: list[str],
    gpu: PretendedGPU | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args = [*IMAGES, "--model.dropout", "0.2", "--trainer.max_epochs", "2", *options]
    args += ["--callbacks.plots", "null", "--trainer.log_every_n_steps", "3", "--run_name", "r"]
    args += ["--trainer.deterministic", "warn"] if gpu is None else []
    whole, stopped = ([*args, "--runs_dir", str(tmp_path / name)] for name in ("whole", "stopped"))
    assert train(whole) == 0
    with monkeypatch.context() as patch:
        stop_in_step(models.SimpleCNN, 5, patch)
        with pytest.raises(SystemExit, match="143"):
            train(stopped)
    assert train([*stopped, "--resume", "auto"]) == 0
    one, other = (content(tmp_path / n / "cifar10_synthetic/r") for n in ("whole", "stopped"))
    assert differences(one, other) == []


def test_images_are_evaluated_predicted_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, files = str(tmp_path / "cifar10_synthetic/r"), images_of(tmp_path)
    with any_gpu() as gpu:
        assert train([*IMAGES, "--trainer.max_epochs", "1", *_named(tmp_path)]) == 0
        metrics = json.loads(Path(run, "metrics.json").read_text())
        assert evaluate.main([run]) == 0
        again = json.loads(Path(run, "evaluation/best/test/metrics.json").read_text())
        assert again["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)
        capsys.readouterr()
        before = len(gpu.waits) if gpu else 0
        assert predict.main([run, *files]) == 0
        on_gpu = capsys.readouterr()
        if gpu is not None:
            assert len(gpu.waits) == before + 1  # a batch is read at once
        assert predict.main([run, *files, "--device", "cpu"]) == 0
        if gpu is not None:
            assert len(gpu.waits) == before + 1  # it was not used
        assert export.main([run, "--format", "ckpt"]) == 0
    capsys.readouterr()
    assert on_gpu.err == ""
    # Without a GPU, the files of a run on one are read all the same.
    assert predict.main([run, *files, "--device", "cpu"]) == 0
    rows, expected = (
        list(csv.DictReader(io.StringIO(text))) for text in (on_gpu.out, capsys.readouterr().out)
    )
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
    assert export.main([run, "--format", "torch"]) == 0


def test_rows_are_predicted(
    gpu: PretendedGPU | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([*TINY, "--trainer.accelerator", "gpu", *_named(tmp_path)]) == 0
    table = tmp_path / "rows.csv"
    table.write_text("1,2,3,4\n0,0,0,1\n")
    capsys.readouterr()
    for device in ("auto", "cuda", "cuda:0", "cpu"):
        assert predict.main([str(tmp_path / "tiny/r"), str(table), "--device", device]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert [row["error"] for row in rows] == ["", ""]


def test_predictor_tells_its_modules_where_they_are(
    gpu: PretendedGPU | None, tiny_run: Path
) -> None:
    predictor = load(tiny_run)
    assert predictor.device == predictor.model.device == torch.device("cpu")
    for move in (lambda: predictor.to("cuda"), predictor.cuda):
        move()
        assert predictor.device == predictor.model.device == torch.device("cuda", 0)
        assert predictor(predictor.random_samples(2).to(predictor.device)).is_cuda
        predictor.cpu()
        assert predictor.device == predictor.model.device == torch.device("cpu")
    assert predictor.double().model.dtype == torch.float64


def test_checkpoints_read_norms_and_weights_at_once(
    gpu: PretendedGPU | None, tmp_path: Path
) -> None:
    if gpu is None:
        pytest.skip("only a pretended GPU tells when the host waits")
    clipping, layer = GradientClipping(max_norm=1.0), torch.nn.Linear(3, 3).to("cuda")
    clipping._norms = clipping._sizes = [torch.ones((), device="cuda") for _ in range(10)]
    clipping.state_dict()
    assert len(gpu.waits) == 1
    assert nonfinite_weights(layer) is None
    assert len(gpu.waits) == 2


@pytest.mark.skipif(
    torch.cuda.device_count() == 1, reason="two GPUs can be used or pretended, here is one"
)
def test_two_devices(tmp_path: Path) -> None:
    two = [] if torch.cuda.is_available() else ["-m", "tests.pretended_gpu", "2", "src.train"]
    options = devices(2, accelerator="gpu")
    one, several = alone_and_together(TINY, tmp_path, [*(two or TRAIN), *options])
    assert_close(one, several, ["test/loss", "test/acc", "val/loss", "train/loss"])


def _named(folder: Path) -> list[str]:
    return ["--runs_dir", str(folder), "--run_name", "r"]
