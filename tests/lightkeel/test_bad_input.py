"""Bad input ends with status 2 and a message of at most three lines, and leaves nothing behind."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from lightkeel.errors import bad_input as errors
from src import evaluate, models, train
from tests.lightkeel.commands import TORCHRUN, TRAIN, TWO, fails, finish, forked_ranks, start
from tests.lightkeel.conftest import TINY
from tests.lightkeel.places import CONFIGS, DEFAULT_CONFIG
from tests.lightkeel.tiny import TinyModel

KNOWN = ", ".join(
    sorted(str(p.relative_to(CONFIGS).with_suffix("")) for p in CONFIGS.rglob("*.yaml"))
)
MODEL = next(name for name, found in vars(models).items() if isinstance(found, type))
GIVE_RUN = "Give a run folder, EXPERIMENT/NAME, a .ckpt file, or `last`."

# Arguments after those for the tests' own experiment, and the message without "error: ".
CASES: list[tuple[str, list[str], str]] = [
    (
        "unknown option of a model",
        ["--model.optmizer.lr", "1"],
        "model.optmizer: TinyModel has no such option. Did you mean `optimizer`?",
    ),
    (
        "unknown option of the data",
        ["--data.batchsize", "1"],
        "data.batchsize: TinyData has no such option. Did you mean `batch_size`?",
    ),
    (
        "unknown option of the trainer",
        ["--trainer.max_epoch", "1"],
        "trainer.max_epoch: trainer has no such option. Did you mean `max_epochs`?",
    ),
    (
        "unknown option of a callback",
        ["--callbacks.gradient_clipping.max_nrm", "1"],
        "callbacks.gradient_clipping.max_nrm: GradientClipping has no such option. "
        "Did you mean `max_norm`?",
    ),
    (
        "unknown callback",
        ["--callbacks.gradint_clipping.max_norm", "1"],
        "callbacks.gradint_clipping: callbacks has no such option. "
        "Did you mean `gradient_clipping`?",
    ),
    (
        "unknown option at the top",
        ["--modl", MODEL],
        "modl: the command line has no such option. Did you mean `model`?",
    ),
    (
        "no option at all",
        ["tiny"],
        "tiny: is no option. Options begin with --, as in --trainer.max_epochs 5.",
    ),
    (
        "unknown config",
        ["--config", DEFAULT_CONFIG[:-1]],
        f"--config {DEFAULT_CONFIG[:-1]}: no such config. Did you mean `{DEFAULT_CONFIG}`? "
        f"Available: {KNOWN}.",
    ),
    ("config without a name", ["--config"], "--config: needs the name of a config or a path."),
    (
        "unknown class",
        ["--model", MODEL[:-1]],
        f"model: there is no class `{MODEL[:-1]}`. Did you mean `{MODEL}`?",
    ),
    (
        "module that is not there",
        ["--model", "nowhere.Model"],
        "model: cannot import it: No module named 'nowhere'.",
    ),
    (
        "class of another kind",
        ["--model", "torch.nn.Linear"],
        "model: `torch.nn.Linear` is no LightningModule.",
    ),
    (
        "wrong type, integer",
        ["--trainer.max_epochs", "many"],
        "trainer.max_epochs: `many` has the wrong type. Give int or null.",
    ),
    (
        "wrong type, list",
        ["--model.widths", "32"],
        "model.widths: `32` has the wrong type. Give list.",
    ),
    (
        "wrong type, fraction",
        ["--data.batch_size", "2.5"],
        "data.batch_size: `2.5` has the wrong type. Give int.",
    ),
    (
        "no such choice",
        ["--model.activation", "rellu"],
        "model.activation: `rellu` is not a choice. Did you mean `relu`?",
    ),
    ("zero size", ["--data.batch_size", "0"], "data.batch_size: 0 is not at least 1."),
    ("negative size", ["--data.num_workers", "-1"], "data.num_workers: -1 is not at least 0."),
    (
        "zero in a list",
        ["--model.widths", "[32,0]"],
        "model.widths[1]: 0 is not at least 1.",
    ),
    *(
        (
            f"{name} {value}",
            [f"--{name}", value],
            f"{message} is no finite number. Give one that is.",
        )
        for name, value, message in [
            ("model.dropout", ".nan", "model.dropout: nan"),
            ("model.optimizer.lr", ".inf", "model.optimizer.lr: inf"),
            ("data.shake", "1e400", "data.shake: inf"),
            ("trainer.limit_train_batches", ".inf", "trainer.limit_train_batches: inf"),
            (
                "callbacks.gradient_clipping.max_norm",
                ".nan",
                "callbacks.gradient_clipping.max_norm: nan",
            ),
        ]
    ),
    ("dropout", ["--model.dropout", "1.5"], "model.dropout: 1.5 is not in [0, 1)."),
    (
        "sizes that do not fit together",
        ["--model.num_features", "3"],
        "model.num_features: 3, but TinyData has 4. Set it to 4.",
    ),
    (
        "model of a size that the data does not have",
        ["--data", "lightkeel.data.in_memory.InMemoryDataModule"],
        "model.num_features: 4, but InMemoryDataModule has none.",
    ),
    (
        "unknown optimizer",
        ["--model.optimizer.name", "AdanW"],
        "model.optimizer.name: torch.optim has no `AdanW`. Did you mean `AdamW`?",
    ),
    (
        "unknown option of an optimizer",
        ["--model.optimizer.weight_decai", "0.9"],
        "model.optimizer.weight_decai: AdamW has no such option. Did you mean `weight_decay`?",
    ),
    (
        "unknown schedule",
        ["--model.lr_scheduler.name", "OneCycle"],
        "model.lr_scheduler.name: torch.optim.lr_scheduler has no `OneCycle`. "
        "Did you mean `OneCycleLR`?",
    ),
    (
        "negative learning rate",
        ["--model.optimizer.lr", "-1"],
        "model.optimizer: AdamW refuses its settings: Invalid learning rate: -1",
    ),
    (
        "word for a number",
        ["--model.optimizer.lr", "fast"],
        "model.optimizer.lr: 'fast' is no number.",
    ),
    (
        "optimizer that this project cannot use",
        ["--model.optimizer.name", "SparseAdam"],
        "model.optimizer: SparseAdam refuses its settings: SparseAdam does not support dense "
        "gradients, please consider Adam instead",
    ),
    (
        "schedule that cannot run",
        ["--model.lr_scheduler", "{name: StepLR, step_size: 0}"],
        "model.lr_scheduler: StepLR refuses its settings: …",
    ),
    (
        "optimizer with too few values",
        ["--model.optimizer", "{name: AdamW, lr: 0.1, betas: [0.9]}"],
        "model.optimizer: AdamW refuses its settings: …",
    ),
    (
        "schedule that this optimizer cannot follow",
        ["--model.optimizer", "{name: Adagrad, lr: 0.1}"],
        "model.lr_scheduler: OneCycleLR refuses its settings: …",
    ),
    ("interval longer than an epoch", ["--trainer.val_check_interval", "500"], "trainer: …"),
    (
        "interval that is none",
        ["--trainer.val_check_interval", "{}"],
        "trainer.val_check_interval: {} is no interval. Give a number or null.",
    ),
    (
        "interval of no steps",
        ["--trainer.val_check_interval", "0"],
        "trainer.val_check_interval: 0 is no interval. Give a number or null.",
    ),
    (
        "interval of no epochs",
        ["--trainer.check_val_every_n_epoch", "0"],
        "trainer.check_val_every_n_epoch: 0 is no interval. Give a number or null.",
    ),
    ("seed out of range", ["--seed_everything", "-1"], "seed_everything: -1 is not in [0, 2**32)."),
    (
        "workers needed",
        ["--data.persistent_workers", "true"],
        "data.persistent_workers: True needs worker processes. Set num_workers too.",
    ),
    (
        "subset larger than the data",
        ["--data.subset", "5000"],
        "data.subset: 5000 is more than the 96 training samples.",
    ),
    (
        "batch that devices cannot share",
        ["--data.batch_size", "33", *("--trainer.devices", "2", "--trainer.strategy", "ddp")],
        "data.batch_size: 33 samples cannot be shared by 2 devices. Use 32 or 34.",
    ),
    (
        "effective batch that does not divide",
        ["--callbacks.gradient_accumulation.effective_batch_size", "70"],
        "callbacks.gradient_accumulation.effective_batch_size: 70 is not a multiple of the 32 "
        "samples of a batch over 1 device(s). Use 64, for example.",
    ),
    (
        "two ways to clip",
        ["--callbacks.gradient_clipping.max_value", "2"],
        "callbacks.gradient_clipping.max_norm: 1.0, with max_value 2.0. Set one to null.",
    ),
    (
        "best of a metric that is never logged",
        ["--callbacks.checkpoint.monitor", "val/los"],
        "callbacks.checkpoint.monitor: `val/los` is never logged. Did you mean `val/loss`? "
        "Available: val/acc, val/loss.",
    ),
    (
        "early stopping without a metric",
        ["--callbacks.early_stopping", "null", "--callbacks.early_stopping.patience", "3"],
        "callbacks.early_stopping.monitor: EarlyStopping needs it. Give it a value.",
    ),
    (
        "strategy that is not there",
        ["--trainer.strategy", "dpp"],
        "trainer: You selected an invalid strategy name: `strategy='dpp'`.…",
    ),
    (
        "norm of a shard",
        ["--trainer.strategy", "fsdp_cpu_offload"],
        "trainer.strategy: with PyTorch's first FSDP, callbacks.gradient_clipping would see the "
        "norm of a device's own shard.\n  Set it to fsdp, which is the second.",
    ),
    (
        "two ways to clip gradients",
        ["--trainer.gradient_clip_val", "0"],
        "trainer.gradient_clip_val: set beside callbacks.gradient_clipping. "
        "Use one of them, and set the other to null.",
    ),
    (
        "way to clip that is passed over",
        ["--trainer.gradient_clip_algorithm", "value"],
        "trainer.gradient_clip_algorithm: set beside callbacks.gradient_clipping. "
        "Use one of them, and set the other to null.",
    ),
    (
        "two ways to accumulate",
        [
            *("--trainer.accumulate_grad_batches", "2"),
            *("--callbacks.gradient_accumulation.effective_batch_size", "64"),
        ],
        "trainer.accumulate_grad_batches: set beside callbacks.gradient_accumulation. "
        "Use one of them.",
    ),
    (
        "folder that is passed over",
        ["--trainer.default_root_dir", "elsewhere"],
        "trainer.default_root_dir: a run writes to a folder of its own. Set --runs_dir instead.",
    ),
    (
        "nothing to be kept",
        ["--trainer.barebones", "true"],
        "trainer.barebones: leaves out what a run is for: metrics, checkpoints and progress.\n"
        "  Switch off what is not wanted, as in --callbacks.gradient_norms null.",
    ),
    *(
        (
            f"search for {what}",
            [f"--trainer.callbacks+=lightning.pytorch.callbacks.{name}"],
            f"trainer.callbacks: {name} changes {what} as the run begins, and config.yaml would "
            "not say so.\n"
            f"  Find it first, with lightning.pytorch.tuner.Tuner, and set {what} to that.",
        )
        for name, what in {
            "BatchSizeFinder": "the batch size",
            "LearningRateFinder": "the learning rate",
        }.items()
    ),
    (
        "seed",
        ["--seed_everything", "false"],
        "seed_everything: false, but every run is seeded. Give a number.",
    ),
    ("run name", ["--run_name", "a/b"], "--run_name 'a/b': is not the name of a folder."),
    (
        "run to resume",
        ["--resume", "nope"],
        f"--resume nope: no such file or folder. {GIVE_RUN}\n  Available: none.",
    ),
]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(*case[1:], id=case[0], marks=[pytest.mark.slow] * (number % 2))
        for number, case in enumerate(CASES)
    ],
)
def test_train(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    fails(train.main, [*TINY, *args, "--runs_dir", str(runs)], message, capsys)
    assert not runs.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "model: {a",
            "--config {path}: is no valid YAML, line 1: expected ',' or '}}', "
            "but got '<stream end>'.",
        ),
        ("- 3", "--config {path}: holds no options. Begin with `model:`, for example."),
        (
            "!!python/object/apply:os.getcwd []",
            "--config {path}: is no valid YAML, line 1: could not determine a constructor for "
            "the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'.",
        ),
        (
            "callbacks: [1]\nmodel: tests.lightkeel.tiny.TinyModel",
            "callbacks: give names and options, as in `checkpoint: {{mode: max}}`.",
        ),
        (
            "trainer: 3\nmodel: tests.lightkeel.tiny.TinyModel",
            "trainer: give names and options, as in `max_epochs: 5`.",
        ),
        (
            "seed_everything: null\nmodel: tests.lightkeel.tiny.TinyModel",
            "seed_everything: null, but every run is seeded. Give a number.",
        ),
        ("modl: 3", "modl: the command line has no such option. Did you mean `model`?"),
        (
            "trainer: {max_epoch: 2}\nmodel: tests.lightkeel.tiny.TinyModel",
            "trainer.max_epoch: trainer has no such option. Did you mean `max_epochs`?",
        ),
        (
            "model: {class_path: tests.lightkeel.tiny.TinyModel, num_features: 2}",
            "model.num_features: stands beside class_path. Put it under `init_args`.",
        ),
        (
            "model: {class_path: tests.lightkeel.tiny.TinyModel, init_args: {num_feature: 2}}",
            "model.num_feature: TinyModel has no such option. Did you mean `num_features`?",
        ),
        (
            "trainer: {strategy: ddp}",  # as in an overlay
            "model: missing. Put an experiment before the overlays, such as "
            f"--config {DEFAULT_CONFIG}, or give --model.",
        ),
    ],
)
def test_config_files(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    fails(train.main, ["--config", str(path)], message.format(path=path), capsys)


def test_checkpoints(tmp_path: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def expect(message: str, *args: str) -> None:
        fails(evaluate.main, args, message, capsys)

    best = tiny_run / "checkpoints" / "best.ckpt"
    config = str(tiny_run / "config.yaml")
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(best.read_bytes()[:500])
    expect(f"RUN {cut}: is cut short or no checkpoint (…", str(cut), "--config", config)
    other = tmp_path / "other.ckpt"
    torch.save({"weights": 3}, other)
    expect(
        f"RUN {other}: is no checkpoint of a LightningModule: no `state_dict`.",
        str(other),
        "--config",
        config,
    )
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(best.read_bytes())
    expect(
        f"RUN {copy}: has no config.yaml beside it. Give the --config it was trained with.",
        str(copy),
    )
    expect(
        f"RUN {copy}: is a checkpoint of another model than TinyModel as configured: "
        "`network.0.weight` is (6, 4) there and (5, 4) here.\n"
        "  Give the configuration it was trained with.",
        *(str(copy), "--config", config, "--model.widths", "[5]"),
    )
    expect(f"RUN nope: no such file or folder. {GIVE_RUN}…", "nope")
    expect(f"RUN {tmp_path}: no checkpoint in {tmp_path}/checkpoints.", str(tmp_path))
    expect("RUN last: there is no run in nowhere. Train one first.", "last", "--runs_dir=nowhere")
    choices = "Did you mean `test`? Available: test, val."
    expect(f"--split tset: is no choice. {choices}", "last", "--split", "tset")
    usage = "See python -m src.evaluate --help."
    expect(f"the following arguments are required: RUN. {usage}")


def test_runs(tmp_path: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tiny_run.parent.parent
    fails(
        train.main,
        [*TINY, "--runs_dir", str(runs), "--run_name", "run"],
        f"--run_name run: {tiny_run} exists. Choose another name, or resume it: "
        f"--resume {tiny_run}",
        capsys,
    )
    assert [path.name for path in tiny_run.parent.iterdir()] == ["run"]
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(tmp_path / "nowhere")
    for name, target in {"linked": link, "filed": file}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiny").symlink_to(target)
    long = "a" * 300
    before = sorted(tmp_path.rglob("*"))
    for place, path, wrong in [
        (file / "runs", "tiny", "Not a directory"),
        (link, "", "is a link to nothing"),
        (tmp_path / "linked", "tiny", "is a link to nothing"),
        (tmp_path / "filed", "tiny", "is no folder"),
        (tmp_path / long, "tiny", "File name too long"),
    ]:
        text = f"{place / path} cannot be written ({wrong}). Choose another folder."
        args = [*TINY, "--runs_dir", str(place)]
        fails(train.main, args, f"--runs_dir {place}: {text}", capsys)
    named, new = ["--run_name", long], tmp_path / "new"
    text = f"{new}/tiny/{long} cannot be written (File name too long). Choose another name."
    fails(train.main, [*TINY, "--runs_dir", str(new), *named], f"--run_name {long}: {text}", capsys)
    assert sorted(tmp_path.rglob("*")) == before
    message = f"--resume {long}: no such file or folder.…"
    fails(train.main, [*TINY, "--resume", long], message, capsys)
    fails(train.main, ["--config", long], f"--config {long}: no such config.…", capsys)


def test_devices_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        count = torch.cuda.device_count() + 1
        devices = ["--trainer.accelerator", "gpu", "--trainer.devices", str(count)]
        fails(train.main, [*TINY, *devices], "trainer: You requested gpu…", capsys)
    else:
        message = "trainer: No supported gpu backend found!"
        fails(train.main, [*TINY, "--trainer.accelerator", "gpu"], message, capsys)


# Two layers of weights near 1e29 have outputs beyond float32, of which softmax is NaN.
DIVERGING = ["--model.optimizer", "{name: SGD, lr: 1e30}", "--model.lr_scheduler", "null"]


@pytest.mark.parametrize("clips", [True, False])
def test_loss_that_is_not_finite(
    clips: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clipping = "--callbacks.gradient_clipping"
    args = [*TINY, *DIVERGING, *([f"{clipping}.max_norm", "1e9"] if clips else [clipping, "null"])]
    fails(
        train.main,
        [*args, "--runs_dir", str(tmp_path), "--run_name", "run"],
        "callbacks.nonfinite: the loss of optimizer step 1 is nan.\n"
        "  Lower the learning rate, or set callbacks.nonfinite.action to `skip`. "
        "--config overlays/debug names the layer.",
        capsys,
    )
    # It had begun, so its folder stays, without a checkpoint of what went wrong.
    assert (tmp_path / "tiny/run/config.yaml").exists()
    assert not list(tmp_path.rglob("*.ckpt"))


# Found when the data are read, on all devices at once.
SUBSET = ["--data.subset", "1000"]
TOO_FEW = "data.subset: 1000 is more than the 96 training samples."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "wrong", "message", "status"),
    [
        (
            TORCHRUN,
            ["--model.optmizer.lr", "1"],
            "model.optmizer: TinyModel has no such option. Did you mean `optimizer`?",
            1,  # torchrun's own
        ),
        ([*TRAIN, *TWO], SUBSET, TOO_FEW, 2),
    ],
    ids=["torchrun", "ddp"],
)
def test_several_devices_say_it_once(
    launcher: list[str], wrong: list[str], message: str, status: int, tmp_path: Path
) -> None:
    args = [*TINY, *wrong, "--runs_dir", str(tmp_path / "runs")]
    said = finish(start(*launcher, *args), status)
    assert said.count("error: ") == said.count(f"error: {message}\n") == 1
    assert "rank1" not in said
    assert not (tmp_path / "runs").exists()


def test_one_of_two_ranks_says_it(tmp_path: Path) -> None:
    args = [*TINY, *SUBSET, "--runs_dir", str(tmp_path / "runs")]
    first, second = forked_ranks(2, *TRAIN, *args)
    said = finish(first, 2)
    assert said.count("error: ") == said.count(f"error: {TOO_FEW}\n") == 1
    second.terminate()  # as who started them does: it waits for that
    assert "error: " not in finish(second, -signal.SIGTERM)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_busy_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        said = finish(start(*TRAIN, *TINY, *TWO, "--runs_dir", str(tmp_path / "runs")), 2)
    assert said.splitlines()[-2:] == [
        f"error: MASTER_PORT {os.environ['MASTER_PORT']}: is in use by another process.",
        "  Set it to a free port, or unset it.",
    ]
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_error_of_one_device_is_said_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    fails(train.main, ["--config", "nope"], "--config nope: no such config…", capsys)
    assert waited == [errors.LET_SPEAK_S]


def test_layer_that_is_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*TINY, "--config", "overlays/debug", *DIVERGING, "--runs_dir", str(tmp_path)]
    fails(
        train.main,
        [*args, "--callbacks.gradient_clipping", "null"],
        "callbacks.layer_check: layer `network.3` (Linear) is the first whose output is not "
        "finite, at optimizer step 1.\n"
        "  Its input and weights are finite.",
        capsys,
    )


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_memory_that_runs_out(
    command: str,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee …")

    for step in ("training_step", "test_step"):
        monkeypatch.setattr(TinyModel, step, run_out)
    size = {"train": "data.batch_size: 32", "evaluate": "data.val_batch_size: 16"}[command]
    remedies = {
        "train": "Use a smaller data.batch_size with callbacks.gradient_accumulation.batches, or "
        "--trainer.precision bf16-mixed.",
        "evaluate": "Use a smaller data.val_batch_size, or --trainer.precision bf16-mixed.",
    }
    args = {"train": [*TINY, "--runs_dir", str(tmp_path)], "evaluate": [str(tiny_run)]}
    fails(
        {"train": train.main, "evaluate": evaluate.main}[command],
        args[command],
        f"{size}: the device's memory is too small for it (Tried to allocate 2.00 GiB).\n"
        f"  {remedies[command]}",
        capsys,
    )
