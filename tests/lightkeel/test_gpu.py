"""The commands on a GPU: that of the machine, or where it has none, a pretended one."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from torch import nn

from lightkeel.callbacks import cuda_graph, graph_capture, graphed_step
from lightkeel.callbacks.graph_capture import Run
from lightkeel.callbacks.nonfinite import nonfinite_weights
from lightkeel.callbacks.progress import Progress
from lightkeel.models.optimizers import build_optimizer
from lightkeel.use.predictor import load
from src import data, predict
from src.train import main as train
from tests.lightkeel.commands import (
    TRAIN,
    alone_and_together,
    assert_close,
    devices,
    experiment,
    fails,
    same,
)
from tests.lightkeel.conftest import TINY
from tests.lightkeel.fitting import Given, Line, fit
from tests.lightkeel.on_gpu import Waits, resumed_like_whole
from tests.lightkeel.places import CONFIGS
from tests.lightkeel.pretended_gpu import PretendedGPU
from tests.lightkeel.small import small
from tests.lightkeel.tape import Tape
from tests.lightkeel.tiny import TinyModel

ON_GPU = [*TINY, "--trainer.accelerator", "gpu"]
# The examples of this project as delivered. Yours may do what cannot be pretended.
QUICK = ("linear_regression",)  # of images: test_image_gpu.py
EXAMPLES = {path.stem: path for path in Path(__file__).parent.glob("experiments/*.yaml")}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in sorted(EXAMPLES)],
)
def test_trains(
    name: str,
    gpu: PretendedGPU | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = yaml.safe_load(EXAMPLES[name].read_text())
    cls = getattr(data, given["data"]["class_path"])
    num_classes = given["model"].get("init_args", {}).get("num_classes", 10)
    args = [*experiment(name), "--trainer.max_epochs", "1", "--run_name", "r"]
    args += ["--trainer.accelerator", "gpu", "--trainer.log_every_n_steps", "3"]
    for option, value in small(cls, tmp_path / "images", num_classes).items():
        args += [f"--data.{option}", str(value)]
    if "path" in given["data"]["init_args"]:
        args += ["--data.path", str(CONFIGS / "diabetes.csv")]
    if gpu is not None:
        args += Waits.watch(gpu)
    assert train(args) == 0
    run = tmp_path / "runs" / name / "r"
    assert json.loads((run / "metrics.json").read_text())["epochs"] == 1
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    drawn = {path.stem for path in (run / "plots").iterdir()}
    of_model = {"LinearRegression": "fit", "MLP": "mae"}
    assert drawn >= {"loss", of_model.get(given["model"]["class_path"], "worst")}
    assert "LOCAL_RANK" not in caplog.text
    if gpu is not None:
        assert Waits.in_steps(3, is_due=True), "a row of metrics cannot be had without a wait"
        assert Waits.in_steps(3, is_due=False) == []
        assert gpu.doubles == []  # which Apple's GPUs lack


@pytest.mark.parametrize(
    ("precision", "fused"),
    [
        ("bf16-mixed", "false"),
        pytest.param("16-mixed", "false", marks=pytest.mark.slow),
        ("16-mixed", "true"),
    ],
)
def test_mixed_precision(
    precision: str, fused: str, gpu: PretendedGPU | None, tmp_path: Path
) -> None:
    args = [*ON_GPU, "--data.batch_size", "16", "--trainer.precision", precision]
    args += ["--trainer.log_every_n_steps", "3", "--runs_dir", str(tmp_path), "--run_name", "r"]
    args += ["--model.optimizer", f"{{name: AdamW, lr: 0.01, fused: {fused}}}"]
    if fused == "true":
        args += ["--callbacks.gradient_clipping", "null"]  # it refuses both together
    if gpu is not None:
        args += Waits.watch(gpu)
    assert train(args) == 0
    metrics = json.loads((tmp_path / "tiny/r/metrics.json").read_text())
    assert 0 < metrics["test/loss"] < 10
    # Without a fused optimizer, the scaler asks in each step whether to leave it out.
    if gpu is not None and (fused == "true" or precision == "bf16-mixed"):
        assert Waits.in_steps(3, is_due=False) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "AdamW"}, True),
        ({"name": "Adam"}, True),
        ({"name": "SGD", "lr": 0.1, "momentum": 0.9}, None),
        ({"name": "AdamW", "fused": False}, False),
        ({"name": "AdamW", "foreach": True}, None),
        ({"name": "RMSprop"}, None),
    ],
)
def test_adam_is_fused(
    settings: dict[str, Any], expected: bool | None, gpu: PretendedGPU | None
) -> None:
    assert build_optimizer(nn.Linear(1, 1).cuda(), settings).defaults.get("fused") is expected
    on_cpu = build_optimizer(nn.Linear(1, 1), settings).defaults.get("fused")
    assert on_cpu is settings.get("fused")


@pytest.mark.parametrize(("scaler", "expected"), [(None, True), (object(), None)])
def test_adam_is_not_fused_where_losses_are_scaled(
    scaler: Any, expected: bool | None, gpu: PretendedGPU | None
) -> None:
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    model: Any = Line(optimizer={"name": "Adam"}).cuda()
    assert model.configure_optimizers().defaults["fused"] is True  # without a trainer
    model.trainer = trainer
    assert model.configure_optimizers().defaults["fused"] is expected


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            [
                *("--callbacks.gradient_accumulation.batches", "2"),
                *("--model.lr_scheduler", "{name: ReduceLROnPlateau, patience: 0, threshold: 1.0}"),
                *("--model.optimizer", "{name: AdamW, lr: 0.01, fused: true}"),
            ],
            id="accumulation, plateau, fused",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [
                *("--model.optimizer", "{name: AdamW, lr: 0.01, capturable: true}"),
            ],
            id="capturable",
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
def test_resumes_within_an_epoch(
    options: list[str], gpu: PretendedGPU | None, tmp_path: Path
) -> None:
    args = [*ON_GPU, "--model.dropout", "0.2", "--data.batch_size", "16", "--run_name", "r"]
    args += ["--trainer.log_every_n_steps", "2", *options]
    args += ["--trainer.deterministic", "true"] if gpu is None else []
    assert resumed_like_whole(args, tmp_path, TinyModel, step=4) == []


@pytest.mark.parametrize(
    "mode",
    [
        "reduce-overhead",
        pytest.param("max-autotune", marks=pytest.mark.slow),
        pytest.param("max-autotune-no-cudagraphs", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_not_accumulated_over_cuda_graphs(
    mode: str,
    gpu: PretendedGPU | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: compiled.append(mode))
    args = [*ON_GPU, "--callbacks.compile.mode", mode, "--runs_dir", str(tmp_path)]
    assert train(args) == 0
    assert compiled == [mode, mode]  # the model and its network
    args += ["--callbacks.gradient_accumulation.batches", "2"]
    if mode == "max-autotune-no-cudagraphs":
        assert train(args) == 0
    else:
        message = (
            f"callbacks.compile.mode: {mode} uses CUDA graphs, in which each batch would overwrite "
            "the gradients of the one before, which are to be accumulated.\n"
            "  Use `default` or `max-autotune-no-cudagraphs`, or accumulate over one batch."
        )
        fails(train, args, message, capsys)


@pytest.mark.slow
def test_rows_are_predicted(
    gpu: PretendedGPU | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    args = [*ON_GPU, "--data.num_workers", "1"]  # whose batches a thread pins
    assert train([*args, "--runs_dir", str(tmp_path), "--run_name", "r"]) == 0
    table = tmp_path / "rows.csv"
    table.write_text("1,2,3,4\n0,0,0,1\n")
    capsys.readouterr()
    for device in ("auto", "cuda", "cuda:0", "cpu"):
        assert predict.main([str(tmp_path / "tiny/r"), str(table), "--device", device]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert [row["error"] for row in rows] == ["", ""]
    assert not [w for w in recwarn if "available but not used" in str(w.message)]


def test_predictor_tells_its_modules_where_they_are(
    gpu: PretendedGPU | None, tiny_run: Path
) -> None:
    predictor = load(tiny_run)
    assert predictor.device == predictor.model.device == torch.device("cpu")
    moves: list[Callable[[], object]] = [lambda: predictor.to("cuda"), predictor.cuda]
    for move in moves:
        move()
        assert predictor.device == predictor.model.device == torch.device("cuda", 0)
        assert predictor(predictor.random_samples(2).to(predictor.device)).is_cuda
        predictor.cpu()
        assert predictor.device == predictor.model.device == torch.device("cpu")
    assert predictor.double().model.dtype == torch.float64


def test_checkpoints_read_weights_at_once(gpu: PretendedGPU | None, tmp_path: Path) -> None:
    if gpu is None:
        pytest.skip("a real GPU does not tell when the host waits; the pretended one does")
    assert nonfinite_weights(torch.nn.Linear(3, 3).to("cuda")) is None
    assert len(gpu.waits) == 1


def test_progress_reads_values_where_a_row_is_read(
    gpu: PretendedGPU | None, tmp_path: Path
) -> None:
    if gpu is None:
        pytest.skip("a real GPU does not tell when the host waits; the pretended one does")
    found, waits = list[int](), gpu.waits

    class Count(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            found.append(len([wait for wait in waits if wait.file.endswith("progress.py")]))

        def on_train_end(self, *args: Any) -> None:
            self.on_train_batch_start()

    progress = Progress(interval_s=0)  # a line each step
    model = Line(optimizer={"name": "SGD", "lr": 0.0})
    data_ = Given(torch.zeros(6, 1), torch.ones(6), batch_size=1)
    options: dict[str, Any] = {
        "limit_val_batches": 1,
        "val_check_interval": 2,
        "log_every_n_steps": 2,
    }
    callbacks = (Count(), progress)
    fit(tmp_path, model, data_, *callbacks, accelerator="gpu", enable_progress_bar=True, **options)
    # Once so that there is a number at once; then the loss of a step whose row is read, and from
    # the second row on that of validation.
    assert found == [0, 1, 2, 2, 4, 4, 6]


@pytest.mark.slow
@pytest.mark.skipif(
    torch.cuda.device_count() == 1, reason="two GPUs can be used or pretended, here is one"
)
def test_two_devices(tmp_path: Path) -> None:
    pretend = ["-m", "tests.lightkeel.pretended_gpu", "2", *TRAIN[1:]]
    launch = TRAIN if torch.cuda.is_available() else pretend
    options = devices(2, accelerator="gpu")
    one, several = alone_and_together(TINY, tmp_path, [*launch, *options])
    assert_close(one, several, ["test/loss", "test/acc", "val/loss", "train/loss"])


@pytest.mark.slow
@pytest.mark.parametrize("batches", ["1", "3"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_graph_changes_no_bit(
    precision: str, batches: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, whose random numbers a graph takes on, and a smaller last batch.

    Without a GPU, a tape of operations on the CPU takes the place of a graph.
    """
    captured: list[int] = []
    record: Any = graph_capture.record
    if not torch.cuda.is_available():
        record = Tape().record
        monkeypatch.setattr(cuda_graph, "obstacle", lambda trainer, module: None)

    def counting(run: Run) -> Any:
        captured.append(1)
        return record(run)

    monkeypatch.setattr(graphed_step, "record", counting)
    args = [*TINY, "--model.dropout", "0.3", "--runs_dir", str(tmp_path)]
    args += ["--trainer.accelerator", "gpu" if torch.cuda.is_available() else "cpu"]
    args += ["--data.num_samples", "410", "--trainer.precision", precision]
    args += ["--callbacks.gradient_accumulation.batches", batches]
    args += ["--callbacks.gradient_clipping.max_norm", "1.0"]
    for name, more in {"eager": [], "graph": ["--callbacks.cuda_graph.warm_up_steps", "2"]}.items():
        assert train([*args, *more, "--run_name", name]) == 0
    assert same(tmp_path / "tiny/eager", tmp_path / "tiny/graph")
    assert len(captured) >= int(batches)
