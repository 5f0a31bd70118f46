"""The commands as a person uses them, in this process where nothing of the process matters."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar

from lightkeel.callbacks.progress import Progress
from lightkeel.options.cli import ProjectCLI
from src.callbacks import Checkpoint
from src.evaluate import main as evaluate
from src.runs import main as list_runs
from src.train import main as train
from tests.lightkeel.commands import TRAIN, TWO, fails, forked, same, start, state, stop_in_step
from tests.lightkeel.conftest import TINY
from tests.lightkeel.tiny import TinyModel

LIGHTNING = "lightning.pytorch.callbacks"


def resolved(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    with pytest.raises(SystemExit, match="0"):
        train([*args, "--print_config"])
    config: dict[str, dict[str, object]] = yaml.safe_load(capsys.readouterr().out)
    return config


def test_later_settings_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("data: {init_args: {batch_size: 64}}\ntrainer: {max_epochs: 7}")
    args = [*TINY, "--trainer.max_epochs", "3", "--config", str(overlay)]
    config = resolved([*args, "--data.batch_size", "16"], capsys)
    assert config["trainer"]["max_epochs"] == 7
    assert config["data"]["init_args"]["batch_size"] == 16  # type: ignore[index]
    config = resolved([*args, "--callbacks.lr_monitor", "null"], capsys)
    assert config["callbacks"]["lr_monitor"] is None
    assert config["callbacks"]["gradient_clipping"]["init_args"]["max_norm"] == 1  # type: ignore[index]


def test_classes_of_others(tmp_path: Path) -> None:
    demos = "lightning.pytorch.demos.boring_classes"
    args = ["--model", f"{demos}.BoringModel", "--data", f"{demos}.BoringDataModule"]
    unlogged = ["--callbacks.checkpoint.monitor", "null", "--callbacks.early_stopping", "null"]
    assert train([*TINY, *args, *unlogged, "--runs_dir", str(tmp_path), "--run_name", "run"]) == 0
    metrics = json.loads((tmp_path / "tiny/run/metrics.json").read_text())
    assert metrics["steps"] == 2 * 64


def test_folder_of_a_run(tiny_run: Path) -> None:
    names = {p.name for p in tiny_run.iterdir() if not p.name.startswith("events.out.tfevents")}
    assert names == {
        *("checkpoints", "config.yaml", "environment.json", "metrics.csv", "metrics.json"),
        "status.json",
    }
    assert {p.name for p in (tiny_run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list(tiny_run.glob("events.out.tfevents*"))
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    assert config["seed_everything"] == 0
    assert config["run_name"] is None
    environment = json.loads((tiny_run / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    with (tiny_run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["lr"]] == ["0", "1", "2", "3", "4", "5"]
    assert [row["step"] for row in rows if row["val/acc"]] == ["2", "5"]
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    assert metrics["epochs"] == 2
    assert metrics["steps"] == 6
    assert float(rows[-1]["test/acc"]) == metrics["test/acc"]


def test_repeating_a_run(tiny_run: Path, tmp_path: Path) -> None:
    args = ["--config", str(tiny_run / "config.yaml"), "--runs_dir", str(tmp_path)]
    assert train([*args, "--run_name", "again"]) == 0
    again = tmp_path / "tiny" / "again"  # the experiment keeps its name
    assert same(again, tiny_run)
    assert train([*args, "--run_name", "other", "--seed_everything", "1"]) == 0
    assert not same(tmp_path / "tiny" / "other", tiny_run)


@pytest.mark.parametrize("split", [pytest.param("val", marks=pytest.mark.slow), "test"])
def test_evaluate_gives_the_same_to_the_last_digit(
    split: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--split", split, "--runs_dir", str(tiny_run.parent.parent)]
    evaluate(["last", *args])
    by_name = capsys.readouterr().out
    evaluate([str(tiny_run), *args])
    assert capsys.readouterr().out == by_name
    printed = dict(re.findall(r"│ (\S+/\S+) +│ (\S+) ", by_name))
    if split == "test":
        metrics = json.loads((tiny_run / "metrics.json").read_text())
        assert printed["test/loss"] == f"{metrics['test/loss']:.7g}"
        assert printed["test/acc"] == f"{metrics['test/acc']:.7g}"
    assert printed.keys() == {f"{split}/acc", f"{split}/loss"}
    best = state(tiny_run, "best.ckpt")
    other = evaluate_batch_size(tiny_run, split, capsys)
    assert float(other[f"{split}/loss"]) == pytest.approx(float(printed[f"{split}/loss"]), 1e-5)
    assert all(
        torch.equal(best[name], tensor) for name, tensor in state(tiny_run, "best.ckpt").items()
    )


@pytest.mark.parametrize(
    ("given", "missed"),
    [
        (["--min", "test/acc=0.4", "--max=test/acc=0.4", "--max", "test/loss=inf"], []),
        (
            ["--max", "test/acc=0.3", "--min", "test/loss=1.2", "--min", "test/acc=0.41"],
            [
                "missed: test/loss is 1.127105, not at least 1.2 (--min)",
                "missed: test/acc is 0.4, not at least 0.41 (--min)",
                "missed: test/acc is 0.4, not at most 0.3 (--max)",
            ],
        ),
        (
            ["--json", "--min", "test/acc/2=1"],
            ["missed: test/acc/2 is 0.5, not at least 1 (--min)"],
        ),
    ],
)
def test_thresholds(
    given: list[str],
    missed: list[str],
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An accuracy of 2/5 in float32 is more than 0.4, and at most that."""
    output = tmp_path / "metrics.json"
    assert evaluate([str(tiny_run), "--output", str(output), *given]) == (3 if missed else 0)
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert lines[len(lines) - len(missed) :] == missed
    if "--json" in given:
        assert json.loads(printed.out) == json.loads(output.read_text())
        assert "│ test/loss │ 1.127105 │" in lines
    else:
        assert lines == missed


def test_thresholds_of_nothing(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given in ("test/acc", "=1", "test/acc=", "test/acc=nan"):
        text = f"--max {given}: is no METRIC=VALUE, as in test/acc=0.7."
        fails(evaluate, [str(tiny_run), "--max", given], text, capsys)
    text = "--min val/acc: no such metric. Did you mean `test/acc`? Available: test/acc, test/acc/…"
    fails(evaluate, [str(tiny_run), "--min", "val/acc=0", "--output", os.devnull], text, capsys)


def evaluate_batch_size(
    run: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> dict[str, str]:
    evaluate([str(run), "--split", split, "--data.val_batch_size", "7"])
    return dict(re.findall(r"│ (\S+/\S+) +│ (\S+) ", capsys.readouterr().out))


def test_a_checkpoint_rebuilds_its_model(tiny_run: Path) -> None:
    best = tiny_run / "checkpoints" / "best.ckpt"
    model = TinyModel.load_from_checkpoint(best, weights_only=True)
    assert model.hparams["widths"] == [6]
    saved = state(tiny_run, "best.ckpt")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_resume(tmp_path: Path) -> None:
    def go_on(*args: str) -> None:
        assert train([*args, "--runs_dir", str(tmp_path)]) == 0

    longer = [*TINY, "--model.lr_scheduler.total_steps", "12"]
    go_on(*longer, "--run_name", "whole", "--trainer.max_epochs", "4")
    go_on(*longer, "--run_name", "parts", "--trainer.max_epochs", "2")
    whole, parts = (tmp_path / "tiny" / name for name in ("whole", "parts"))
    assert not same(parts, whole)
    go_on("--resume", str(parts), "--trainer.max_epochs", "4")
    assert same(parts, whole)
    assert yaml.safe_load((parts / "config.yaml").read_text())["trainer"]["max_epochs"] == 4

    def read(run: Path) -> list[dict[str, str]]:
        measured = ("samples_per_s", "memory_mib")
        with (run / "metrics.csv").open() as file:
            rows = [{k: v for k, v in r.items() if k not in measured} for r in csv.DictReader(file)]
        return [row for row in rows if not row["test/acc"]]  # the first part ends with a test too

    assert read(parts) == read(whole)


def test_resume_auto(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest unfinished run of the experiment, with its own settings, else a new run."""
    flags = ["--seed_everything", "5", "--model.lr_scheduler.total_steps", "12"]
    args = [*TINY, "--runs_dir", str(tmp_path)]
    assert train([*args, *flags, "--run_name", "whole", "--trainer.max_epochs", "4"]) == 0
    assert train([*args, *flags, "--run_name", "parts"]) == 0
    whole, parts = (tmp_path / "tiny" / name for name in ("whole", "parts"))
    (parts / "metrics.json").unlink()  # as if it had been killed
    fewer = f"--resume {parts}: has trained 2 epochs and 6 steps. "
    fails(train, [*args, "--resume", "auto", "--trainer.max_epochs", "1"], f"{fewer}…", capsys)
    assert train([*args, "--resume", "auto", "--trainer.max_epochs", "4"]) == 0
    assert len(list(whole.parent.iterdir())) == 2
    assert same(parts, whole)
    capsys.readouterr()
    assert train([*args, "--resume", "auto"]) == 0
    (new,) = {*whole.parent.iterdir()} - {whole, parts}
    said = f"--resume auto: nothing to resume. A new run begins: {new}\n"
    assert capsys.readouterr().err == said


def test_what_cannot_be_resumed(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "tiny" / "run"
    shutil.copytree(tiny_run, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for args, message in [
        (
            ["--trainer.max_epochs", "2"],
            f"--resume {run}: is done, with 2 epochs and 6 steps. "
            "Set trainer.max_epochs to more than 2 to go on.",
        ),
        (
            ["--trainer.max_epochs", "3"],
            "trainer.max_epochs: 3, but the schedule of the run to resume was made for 2. Train "
            "longer in a new run, or begin with model.lr_scheduler.total_steps set.",
        ),
        (
            ["--model.optimizer.lr", "0.5"],
            "model.optimizer.lr: 0.5, but the run to resume has 0.01. "
            "A resumed run keeps its model, optimizer, schedule and seed.",
        ),
        (
            ["--seed_everything", "1"],
            "seed_everything: 1, but the run to resume has 0. "
            "A resumed run keeps its model, optimizer, schedule and seed.",
        ),
    ]:
        with pytest.raises(SystemExit, match="2"):
            train(["--resume", str(run), "--runs_dir", str(tmp_path), *args])
        assert capsys.readouterr().err == f"error: {message}\n"
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_config_beside_resume(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What to leave out is said where it is a config that makes a difference."""
    run, file = tmp_path / "tiny" / "run", tmp_path / "other.yaml"
    shutil.copytree(tiny_run, run)
    args = ["--resume", str(run), "--config", str(file), "--data.batch_size", "7"]
    leave = f"Leave out --config {os.path.relpath(file)}: the run has its own."
    file.write_text("data: {init_args: {batch_size: 7}}\nmodel: {init_args: {optimizer: {lr: 2}}}")
    assert _refusal(args, capsys) == [
        "error: model.optimizer.name: None, but the run to resume has AdamW. A resumed run keeps "
        "its model, optimizer, schedule and seed.",
        f"  {leave}",
    ]
    otherwise = "warning: data.batch_size: 7, before 32. The run ends otherwise than it would."
    file.write_text("data: {init_args: {batch_size: 7}}")
    assert _refusal(args, capsys)[0] == f"{otherwise} {leave}"
    assert _refusal([*args[:2], *args[4:]], capsys)[0] == otherwise


def _refusal(args: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit, match="2"):
        train(args)
    return capsys.readouterr().err.splitlines()


def test_resume_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after step 4 of 3 + 3: learning rate, order and shake depend on the step."""
    args = [*TINY, "--runs_dir", str(tmp_path)]
    assert train([*args, "--run_name", "whole"]) == 0
    stop_in_step(TinyModel, 3, monkeypatch)
    with pytest.raises(SystemExit, match="143"):
        train([*args, "--run_name", "parts"])
    monkeypatch.undo()
    whole, parts = (tmp_path / "tiny" / name for name in ("whole", "parts"))
    assert torch.load(parts / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert train(["--resume", str(parts), "--runs_dir", str(tmp_path)]) == 0
    assert same(parts, whole)


def test_results_that_are_no_numbers(tmp_path: Path) -> None:
    # Two layers of weights near 1e29 have outputs beyond float32, of which softmax is NaN.
    diverging = ["--model.optimizer", "{name: SGD, lr: 1e30}", "--model.lr_scheduler", "null"]
    best = ["--callbacks.checkpoint.monitor", "val/loss", "--callbacks.checkpoint.mode", "min"]
    args = [*TINY, *diverging, *best, "--callbacks.gradient_clipping", "null"]
    args += ["--callbacks.nonfinite", "null"]
    assert train([*args, "--runs_dir", str(tmp_path), "--run_name", "run"]) == 0
    metrics = json.loads((tmp_path / "tiny/run/metrics.json").read_text())
    assert metrics["test/loss"] is None  # JSON has no NaN
    assert not (tmp_path / "tiny/run/checkpoints/final.ckpt").exists()  # nothing was exchanged


def test_end_before_the_first_validation(tmp_path: Path) -> None:
    args = [*TINY, "--trainer.max_steps", "2", "--runs_dir", str(tmp_path)]
    assert train([*args, "--run_name", "run"]) == 0
    metrics = json.loads((tmp_path / "tiny/run/metrics.json").read_text())
    assert metrics["steps"] == 2


@pytest.mark.slow
def test_sigterm_on_two_devices(tmp_path: Path) -> None:
    """The step to stop at is agreed on; 130 and 143 are the same path."""
    args = [*TINY, *TWO, "--runs_dir", str(tmp_path), "--run_name", "run"]
    endless = ["--trainer.max_epochs", "-1", "--model.lr_scheduler", "null"]
    lines = ["--callbacks.progress.interval_s", "0", "--callbacks.early_stopping", "null"]
    process = subprocess.Popen(
        [sys.executable, *TRAIN, *args, *endless, *lines],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    run = tmp_path / "tiny" / "run"
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] > 0


@pytest.mark.slow  # without the command line: test_exact_resume.py
def test_resume_after_max_steps_within_an_epoch(tmp_path: Path) -> None:
    """What is left of the epoch is trained on, not skipped."""
    args = [*TINY, "--model.lr_scheduler.total_steps", "6", "--runs_dir", str(tmp_path)]
    assert train([*args, "--run_name", "whole"]) == 0
    assert train([*args, "--run_name", "parts", "--trainer.max_steps", "4"]) == 0
    whole, parts = (tmp_path / "tiny" / name for name in ("whole", "parts"))
    go_on = ["--resume", str(parts), "--trainer.max_steps", "-1"]
    assert train([*go_on, "--runs_dir", str(tmp_path)]) == 0
    assert same(parts, whole)


@pytest.mark.slow
def test_nobody_reads_the_pipe(tmp_path: Path) -> None:
    """As in ``python -m src.train | head -1``: the run goes on."""
    long = ["--data.num_samples", "3200", "--callbacks.progress.interval_s", "0"]
    args = [*TINY, *long, "--runs_dir", str(tmp_path)]
    process = forked(*TRAIN, *args, "--run_name", "run")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 0, errors
    assert errors == ""
    assert (tmp_path / "tiny/run/metrics.json").exists()


@pytest.mark.slow
def test_closed_log(tmp_path: Path) -> None:
    """The run goes on."""
    args = [*TINY, "--callbacks.progress.interval_s", "0", "--runs_dir", str(tmp_path)]
    command = [sys.executable, *TRAIN, *args, "--run_name", "run"]
    done = subprocess.run(["bash", "-c", '"$@" >&- 2>&-', "bash", *command], timeout=100)
    assert done.returncode == 0
    assert (tmp_path / "tiny/run/metrics.json").exists()


def test_full_log(tmp_path: Path) -> None:
    args = [*TINY, "--callbacks.progress.interval_s", "0", "--runs_dir", str(tmp_path)]
    with Path("/dev/full").open("w") as full:
        process = forked(*TRAIN, *args, "--run_name", "run", stdout=full, stderr=full)
    assert process.wait(timeout=100) == 0
    assert (tmp_path / "tiny/run/metrics.json").exists()


@pytest.mark.slow
def test_names_that_a_terminal_cannot_show(tmp_path: Path) -> None:
    """Here and in the files of the run."""
    runs = tmp_path / "größe"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, *TRAIN, *TINY, "--runs_dir", str(runs), "--run_name", "läuft"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gr??e/tiny/l?uft" in done.stdout
    config = yaml.safe_load((runs / "tiny/läuft/config.yaml").read_text(encoding="utf-8"))
    assert config["runs_dir"] == str(runs)


@pytest.mark.slow
@pytest.mark.parametrize("in_file", [False, True])
def test_home(in_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--runs_dir=~/runs``, which shells leave as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "tiny.yaml"
    config.write_text(Path(TINY[1]).read_text() + ("runs_dir: ~/runs\n" if in_file else ""))
    option = [] if in_file else ["--runs_dir=~/runs"]
    args = ["--config", str(config), *option]
    assert train([*args, "--run_name", "run"]) == 0
    run = tmp_path / "runs/tiny/run"
    names = {path.name.partition(".")[0] for path in run.iterdir()}
    assert names >= {"checkpoints", "config", "events", "metrics", "status"}
    assert not (tmp_path / "~").exists()
    before = run.stat().st_mtime_ns
    (run / "metrics.json").unlink()
    assert train([*args, "--resume", "auto"]) == 0
    assert list(run.parent.iterdir()) == [run]
    assert run.stat().st_mtime_ns > before
    assert evaluate(["last", "--runs_dir=~/runs", "--output", str(tmp_path / "all.json")]) == 0
    assert evaluate(["~/runs/tiny/run", "--output", str(tmp_path / "all.json")]) == 0
    assert list_runs(["~/runs"]) == 0


def test_clipping_by_the_trainer_still_works(tmp_path: Path) -> None:
    """Lightning's own: steps of plain SGD are at most as long as the gradient may be."""
    sgd = ["--model.optimizer", "{name: SGD, lr: 1.0}", "--model.lr_scheduler", "null"]
    args = [*TINY, *sgd, "--callbacks.gradient_clipping", "null", "--trainer.max_steps", "1"]
    once = ["--trainer.limit_val_batches", "0", "--callbacks.checkpoint.monitor", "null"]
    args += [*once, "--callbacks.early_stopping", "null", "--runs_dir", str(tmp_path)]
    for name, options in (("free", []), ("clipped", ["--trainer.gradient_clip_val", "0.001"])):
        assert train([*args, *options, "--run_name", name]) == 0
    free, clipped = (state(tmp_path / "tiny" / name) for name in ("free", "clipped"))
    begin = ProjectCLI([*TINY, "--runs_dir", str(tmp_path)], training=False).model.state_dict()

    def length(after: dict[str, torch.Tensor]) -> float:
        moved = [(after[name] - begin[name]).flatten() for name in begin]
        return float(torch.cat(moved).norm())

    assert length(free) > 0.01
    assert length(clipped) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        ([], Progress),
        (["--callbacks.progress", "null"], type(None)),
        (["--trainer.enable_progress_bar", "false"], type(None)),
        (
            ["--callbacks.progress", "null", "--trainer.enable_progress_bar", "true"],
            (TQDMProgressBar, RichProgressBar),
        ),
        ([f"--trainer.callbacks+={LIGHTNING}.RichProgressBar"], RichProgressBar),
    ],
)
def test_progress(args: list[str], kind: type, tmp_path: Path) -> None:
    cli = ProjectCLI([*TINY, *args, "--runs_dir", str(tmp_path)])
    assert isinstance(cli.trainer.progress_bar_callback, kind)


@pytest.mark.parametrize(
    ("args", "kinds"),
    [
        ([], [Checkpoint]),
        (["--trainer.enable_checkpointing=false"], []),
        (["--callbacks.checkpoint=null"], []),
        (["--callbacks.checkpoint=null", "--trainer.enable_checkpointing=true"], [ModelCheckpoint]),
        (
            ["--callbacks.checkpoint=null", f"--trainer.callbacks+={LIGHTNING}.ModelCheckpoint"],
            [ModelCheckpoint],
        ),
        (
            [f"--trainer.callbacks+={LIGHTNING}.ModelCheckpoint"],
            [Checkpoint, ModelCheckpoint],
        ),
    ],
)
def test_checkpointing(args: list[str], kinds: list[type], tmp_path: Path) -> None:
    cli = ProjectCLI([*TINY, *args, "--runs_dir", str(tmp_path)])
    assert [type(callback) for callback in cli.trainer.checkpoint_callbacks] == kinds


def test_dry_run_leaves_nothing(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert train([*TINY, "--trainer.fast_dev_run", "true", "--runs_dir", str(runs)]) == 0
    assert not runs.exists()


def test_trainer_option_for_accumulation(tmp_path: Path) -> None:
    args = [*TINY, "--trainer.accumulate_grad_batches", "4", "--data.batch_size", "5"]
    assert train([*args, "--runs_dir", str(tmp_path), "--run_name", "run"]) == 0
    metrics = json.loads((tmp_path / "tiny/run/metrics.json").read_text())
    assert metrics["steps"] == 2 * 5  # of 20 batches an epoch


@pytest.mark.parametrize("begin", [forked, pytest.param(start, marks=pytest.mark.slow)])
def test_ctrl_c_and_a_pipe(begin: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    args = [
        *(*TINY, "--runs_dir", str(tmp_path), "--run_name", "run"),
        *("--trainer.max_epochs", "-1", "--model.lr_scheduler", "null"),
        *("--callbacks.progress.interval_s", "0", "--callbacks.early_stopping", "null"),
    ]
    process = begin(*TRAIN, *args)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    for batch, line in enumerate(lines, 1):
        metrics = r"train/loss_step \S+"
        assert re.fullmatch(rf"epoch 1  batch {batch}/3  {metrics}\n", line)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    run = tmp_path / "tiny" / "run"
    assert errors.splitlines() == [
        "stopping after this step; once more to stop at once",
        f"stopped: {run}",
        f"resume: python -m src.train --resume {run}",
    ]
    assert "\x1b" not in printed  # no terminal codes in a pipe
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    with (run / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["lr"]]
    assert checkpoint["global_step"] == steps[-1] + 1
