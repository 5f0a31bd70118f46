"""What other people write: each module of the zoo is trained, evaluated and resumed, bit for bit.

python -m tests.lightkeel.test_zoo [NAMES]      a table of what works, and what is said of the rest
"""

import contextlib
import csv
import io
import json
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
import torch

from lightkeel.runs.checkpoints import WholeCheckpointIO
from src.evaluate import main as evaluate
from src.train import main as train
from tests.lightkeel.commands import fails
from tests.lightkeel.soak import content, differences

ZOO = ["--config", str(Path(__file__).parent / "zoo" / "zoo.yaml")]
OWN = {
    "model.class_path": "tests.lightkeel.zoo.modules",
    "data.class_path": "tests.lightkeel.zoo.data",
}


class Case(NamedTuple):
    """A module and its data, with further options."""

    model: str
    data: str | None = "Points"
    args: Sequence[str] = ()

    def command(self, folder: Path) -> list[str]:
        """The command line that trains it."""
        data = [] if self.data is None else ["--data", f"tests.lightkeel.zoo.data.{self.data}"]
        model = ["--model", f"tests.lightkeel.zoo.modules.{self.model}"]
        return [*ZOO, *model, *data, *self.args, "--runs_dir", str(folder), "--run_name", "run"]


def data(**options: object) -> list[str]:
    return [f"--data.{name}={value}" for name, value in options.items()]


def callback(path: str, **options: object) -> list[str]:
    chosen = [f"--trainer.callbacks.{name}={value}" for name, value in options.items()]
    return [f"--trainer.callbacks={path}", *chosen]


LIGHTNING = "lightning.pytorch.callbacks"
WORKERS = data(num_workers=2)
DROPOUT = ["--model.dropout=0.5"]
EVERY_2 = ["--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=4"]
NETWORK = [
    "--model.backbone=torch.nn.Linear",
    *(f"--model.backbone.{n}_features={k}" for n, k in (("in", 4), ("out", 3))),
]
CASES = {
    # data
    "plain": Case("Plain"),
    "dropout": Case("Plain", args=DROPOUT),
    "drop_last": Case("Plain", args=data(drop_last=True)),
    "random_split": Case("Plain", "SplitPoints"),
    "random_torch": Case("Plain", "AugmentedPoints", data(kind="torch")),
    "random_numpy": Case("Plain", "AugmentedPoints", data(kind="numpy")),
    "random_python": Case("Plain", "AugmentedPoints", data(kind="python")),
    "dict_batch": Case("DictSteps", "DictPoints"),
    "tuple_of_dict": Case("TupleOfDictSteps", "TupleOfDictPoints"),
    "dataclass_batch": Case("ObjectSteps", "DataclassPoints"),
    "object_batch": Case("ObjectSteps", "GraphPoints"),
    "strings_first": Case("TripleSteps", "NamedPoints"),
    "scalar_first": Case("TripleSteps", "ScaledPoints"),
    "stream": Case("Plain", "StreamedPoints"),
    "stream_sized": Case("Plain", "StreamedPoints", data(sized=True)),
    "stream_shuffled": Case("Plain", "StreamedPoints", data(shuffle=True)),
    "stream_validated_within": Case("Plain", "StreamedPoints", ["--trainer.val_check_interval=2"]),
    "combined_loader": Case("CombinedSteps", "CombinedPoints"),
    "several_loaders": Case("SeveralLoaders", "SeveralPoints"),
    "weighted_sampler": Case("Plain", "WeightedPoints"),
    "batch_sampler": Case("Plain", "BucketedPoints"),
    "loaders_in_module": Case("OwnLoaders", None),
    "no_validation": Case("Plain", "NoValidation"),
    "no_test": Case("Plain", "NoTest"),
    "workers": Case("Plain", args=WORKERS),
    "workers_random": Case("Plain", "AugmentedPoints", WORKERS),
    "workers_persistent": Case("Plain", "PersistentPoints", WORKERS),
    "workers_stream": Case("Plain", "StreamedPoints", [*WORKERS, "--data.shuffle=True"]),
    "workers_weighted": Case("Plain", "WeightedPoints", WORKERS),
    "workers_batch_sampler": Case("Plain", "BucketedPoints", WORKERS),
    "workers_combined": Case("CombinedSteps", "CombinedPoints", WORKERS),
    # optimization
    "gan": Case("GAN"),
    "gan_with_validation": Case("GANWithValidation"),
    "gan_with_schedules": Case("GANWithSchedules"),
    "manual_accumulation": Case("ManualAccumulation"),
    "optimizers_in_turn": Case("HalfOptimized"),
    "no_optimizer": Case("NoOptimizer"),
    "without_lr": Case("WithoutLR"),
    "rprop": Case("WithRprop"),
    "lbfgs": Case("WithLBFGS"),
    "optimizer_in_list": Case("OptimizerInList"),
    "optimizer_in_dict": Case("OptimizerInDict"),
    "schedule_by_step": Case("ScheduleByStep"),
    "schedule_by_epoch": Case("ScheduleByEpoch"),
    "plateau": Case("Plateau"),
    "plateau_every_2": Case("Plateau", args=EVERY_2),
    "warm_up_by_hand": Case("WarmUp"),
    "own_clipping": Case("OwnClipping"),
    "accumulation": Case("Plain", args=["--trainer.accumulate_grad_batches=2"]),
    "val_check_interval": Case("Plain", args=["--trainer.val_check_interval=2"]),
    "ema": Case("Plain", args=callback(f"{LIGHTNING}.EMAWeightAveraging", decay=0.9)),
    "swa": Case(
        "Plain",
        args=callback(f"{LIGHTNING}.StochasticWeightAveraging", swa_lrs=0.01, swa_epoch_start=1),
    ),
    "lightnings_accumulation": Case(
        "Plain",
        args=callback(f"{LIGHTNING}.GradientAccumulationScheduler", scheduling="{0: 2}"),
    ),
    "lightnings_checkpoint": Case(
        "Plain", args=callback(f"{LIGHTNING}.ModelCheckpoint", monitor="val_loss", save_top_k=2)
    ),
    "reloaded_loaders": Case("Plain", args=["--trainer.reload_dataloaders_every_n_epochs=1"]),
    "max_steps": Case("Plain", args=["--trainer.max_steps=8"]),
    "unfreeze": Case("FrozenBackbone", args=callback("tests.lightkeel.zoo.modules.Unfreeze")),
    # networks
    "autoencoder": Case("AutoEncoder"),
    "vae": Case("VAE"),
    "transformer": Case("Transformer", "Tokens"),
    "rnn_packed": Case("PackedRNN", "Sequences"),
    "rnn_stateful": Case("StatefulRNN", args=data(drop_last=True)),
    "in_configure_model": Case("InConfigureModel"),
    "in_setup": Case("InSetup"),
    "lazy": Case("Lazy", args=data(num_samples=32)),
    "lazy_at_first_batch": Case("LazyAtFirstBatch"),
    "partly_saved": Case("PartlySaved"),
    "frozen_backbone": Case("FrozenBackbone"),
    "batch_norm": Case("BatchNorm"),
    "buffers": Case("Momentum"),
    "given_network": Case("GivenNetwork", args=NETWORK),
    "convolutions": Case("Convolutions", "Pictures"),
    # steps and logging
    "loss_of_one": Case("LossOfOne"),
    "returns_dict": Case("ReturnsDict"),
    "returns_none": Case("ReturnsNone"),
    "keeps_outputs": Case("KeepsOutputs"),
    "takes_iterator": Case("TakesIterator"),
    "skips_rest": Case("SkipsRest"),
    "own_callbacks": Case("OwnCallbacks"),
    "metrics": Case("WithMetrics"),
    "logs_both": Case("LogsBoth"),
    "logs_step": Case("LogsStep"),
    "logs_epoch": Case("LogsEpoch"),
    "logs_media": Case("LogsMedia"),
    "logs_val_steps": Case("LogsValSteps"),
    # subclasses of this project's
    "ours": Case("Ours"),
    "our_training_step": Case("OurTrainingStep"),
    "our_training_step_same_name": Case("OurTrainingStepSameName"),
    "our_longer_steps": Case("OurLongerSteps"),
    "our_validation_step": Case("OurValidationStep"),
    "our_optimizers": Case("OurOptimizers"),
    "our_epoch_end": Case("OurEpochEnd"),
    "our_manual_optimization": Case("OurManualOptimization"),
    "our_linear_regression": Case("MyLinearRegression", args=["--model.num_features=4"]),
    "our_cnn": Case(
        "MyCNN",
        "Pictures",
        [
            f"--model.{n}={v}"
            for n, v in {"num_classes": 3, "image_size_px": 8, "channels": [4]}.items()
        ],
    ),
}

PARTS = ("train", "evaluate", "within", "epoch")
# Those that are off by default and fit any module.
CALLBACKS = [
    *("--callbacks.gradient_clipping=GradientClipping", "--callbacks.gradient_clipping.max_norm=1"),
    "--callbacks.nonfinite.action=skip",
    "--callbacks.layer_check=LayerCheck",
    "--callbacks.gradient_norms.every_n_steps=1",
    "--callbacks.plots=Plots",
]

# What is known not to hold, by the part that fails; to become empty.
FAILS: dict[str, set[str]] = {
    "train": set(),
    "evaluate": set(),
    "epoch": {"skips_rest"},  # Lightning counts the batch that is skipped once more
    "within": {"skips_rest"},
}


class Trained(NamedTuple):
    """A whole run, and copies of it as it was when ``last.ckpt`` was written."""

    case: Case
    run: Path
    between: Path  # as an epoch had ended
    within: Path | None  # amidst an epoch


def train_and_copy(case: Case, folder: Path) -> Trained:
    """Train a case, and keep what would be there had the process been killed.

    ``between``: when the first epoch was saved as a whole; ``within``: at the first save within the
    last epoch, or within the first where there is no other.
    """
    copies: dict[str, Path] = {}
    write = WholeCheckpointIO.save_checkpoint

    def write_and_copy(io: WholeCheckpointIO, checkpoint: Any, path: Any, **options: Any) -> None:
        write(io, checkpoint, path, **options)
        loop = checkpoint["loops"]["fit_loop"]
        epochs = loop["epoch_progress"]["current"]
        whole = epochs["ready"] == epochs["processed"]
        name = f"epoch {epochs['processed']}" + ("" if whole else " within")
        if Path(path).name == "last.ckpt" and name not in copies:
            copies[name] = folder / "copies" / name
            shutil.copytree(Path(path).parent.parent, copies[name])

    WholeCheckpointIO.save_checkpoint = write_and_copy  # type: ignore[method-assign, assignment]
    try:
        assert train(case.command(folder / "runs")) == 0
    finally:
        WholeCheckpointIO.save_checkpoint = write  # type: ignore[method-assign]
    (metrics,) = (folder / "runs").glob("*/*/metrics.json")
    within = [path for name, path in sorted(copies.items()) if name.endswith("within")]
    return Trained(case, metrics.parent, copies["epoch 1"], within[-1] if within else None)


def resumed(trained: Trained, copy: Path) -> list[str]:
    """Go on from a copy in the place of the run, and name what differs from the whole run."""
    aside = trained.run.with_name("whole")
    trained.run.rename(aside)  # with its reference: names of folders are in checkpoints
    try:
        shutil.copytree(copy, trained.run)
        assert (
            train(
                [
                    *trained.case.command(trained.run.parent.parent)[:-2],
                    "--resume",
                    str(trained.run),
                ]
            )
            == 0
        )
        found = content(trained.run)
    finally:
        shutil.rmtree(trained.run, ignore_errors=True)
        aside.rename(trained.run)
    return differences(content(trained.run), found)


def check_files(run: Path) -> None:
    """Check that what a run has written can be read."""

    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"metrics.json: {name} is no JSON")

    metrics = json.loads((run / "metrics.json").read_text(), parse_constant=refuse)
    assert metrics["steps"] > 0 or "no_optimizer" in str(run)
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    places = [(int(row["epoch"]), int(row["step"])) for row in rows]
    assert places == sorted(places), "rows are torn"
    assert (run / "checkpoints" / "best.ckpt").exists()
    torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def check_evaluate(trained: Trained) -> None:
    """Check that evaluation gives what the test of the run gave."""
    run = trained.run
    measured = json.loads((run / "metrics.json").read_text())
    tested = {name: value for name, value in measured.items() if name.startswith("test")}
    split = "test" if tested else "val"
    if not tested and not any(name.startswith("val") for name in measured):
        return
    assert evaluate([str(run), "--split", split]) == 0
    found = json.loads((run / "evaluation" / "best" / split / "metrics.json").read_text())
    if trained.case.data != "AugmentedPoints":
        assert {name: found[name] for name in tested} == tested


# Some of each kind, resumed in one of two ways; all, and in both, among the slow tests. The last
# are models that somebody changes as a tutorial shows: a step, the optimizers, a hook, all of it.
QUICK = (
    *("several_loaders", "gan_with_schedules", "lbfgs", "rnn_packed", "returns_none", "metrics"),
    *("our_training_step", "our_optimizers", "plain"),
)


@pytest.mark.filterwarnings("ignore")  # those are for who wrote the module
@pytest.mark.parametrize("name", QUICK)
def test_trains_evaluates_and_resumes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resumed_where = "epoch" if QUICK.index(name) % 2 else "within"
    check(name, tmp_path, CASES[name], ("train", "evaluate", resumed_where))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_everything(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(name, tmp_path, CASES[name], ("train", "evaluate", "within", "epoch"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(CASES)[1::3])
def test_with_every_callback(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    args = [*case.args, *CALLBACKS]
    check(name, tmp_path, case._replace(args=args), ("train", "within"))


def check(name: str, folder: Path, case: Case, parts: Sequence[str]) -> None:
    """Check that of some parts of a case those fail that are known to."""
    wrong = dict(failures(case, folder, parts))
    known = {part for part in parts if name in FAILS[part]}
    assert set(wrong) == known, wrong


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_layers_made_late_are_compared_when_they_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo, model = (
        Path(__file__).parent / "zoo" / "zoo.yaml",
        "tests.lightkeel.zoo.modules.InConfigureModel",
    )
    args = ["--config", str(zoo), "--model", model, "--data", "tests.lightkeel.zoo.data.Points"]
    assert train([*args, "--runs_dir", str(tmp_path), "--run_name", "run"]) == 0
    run = tmp_path / "zoo" / "run"
    assert evaluate([str(run)]) == 0
    fails(
        evaluate,
        [str(run), "--model.width", "5"],
        f"RUN {run}/checkpoints/best.ckpt: is a checkpoint of another model than InConfigureModel "
        "as configured: `net.0.weight` is (8, 4) there and (5, 4) here.\n"
        "  Give the configuration it was trained with.",
        capsys,
    )


def test_plateau_waits_for_validation(tmp_path: Path) -> None:
    """Each validation finds it worse, and each divides the rate by ten."""
    run = ["--runs_dir", str(tmp_path), "--run_name", "run", "--callbacks.plots=null"]
    plateau = [
        "--model=tests.lightkeel.zoo.modules.Plateau",
        "--data=tests.lightkeel.zoo.data.Points",
    ]
    epochs = ["--trainer.max_epochs=6", "--trainer.check_val_every_n_epoch=2"]
    config = ["--config", str(Path(__file__).parent / "zoo" / "zoo.yaml")]
    assert train([*config, *plateau, *epochs, *run]) == 0
    with (tmp_path / "zoo" / "run" / "metrics.csv").open(newline="") as file:
        found = {row["epoch"]: float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}
    assert list(found.values()) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def failures(case: Case, folder: Path, parts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name which of some parts fail, and how; all need the first, which trains."""
    try:
        trained = train_and_copy(case, folder)
        check_files(trained.run)
    except (Exception, SystemExit) as error:  # noqa: BLE001
        yield "train", said(error)
        return
    for part in parts[1:]:
        try:
            wrong: Iterable[str] = ()
            if part == "evaluate":
                check_evaluate(trained)
            elif part == "epoch":
                wrong = resumed(trained, trained.between)
            elif trained.within is not None:
                wrong = resumed(trained, trained.within)
            if wrong := list(wrong):
                yield part, f"{len(wrong)} differ, such as {', '.join(wrong[:3])}"
        except (Exception, SystemExit) as error:  # noqa: BLE001
            yield part, said(error)


def said(error: BaseException) -> str:
    """Say where an error was raised."""
    cause, seen = error, set[int]()
    while (origin := cause.__cause__ or cause.__context__) and id(origin) not in seen:
        seen.add(id(origin))
        cause = origin
    frame = traceback.extract_tb(cause.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__} {type(cause).__name__} at {place}: {str(cause)[:300]}"


def main() -> None:
    """Print which cases fail, part by part."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = sys.argv[1:] or list(CASES)
    count = dict.fromkeys(FAILS, 0)
    for name in names:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            wrong = dict(failures(CASES[name], Path(folder), PARTS))
        if "train" in wrong:
            wrong = {part: wrong.get(part, "not trained") for part in FAILS}
        for part, text in wrong.items():
            print(f"{name:28} {part:9} {text}", flush=True)
        for part in FAILS:
            count[part] += part not in wrong
    print(f"of {len(names)}:", *(f"{part} {number}" for part, number in count.items()))


if __name__ == "__main__":
    main()
