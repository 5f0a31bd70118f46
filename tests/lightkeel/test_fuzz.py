"""Whatever is in configs, on the command line and in checkpoints: no traceback, no half a file."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import strategies as st
from lightning.pytorch import Trainer

from lightkeel.use import paddle as paddle_weights
from lightkeel.use.predictor import load
from src import evaluate, export, predict, train
from tests.lightkeel.conftest import TINY
from tests.lightkeel.fuzzing import check_files, damaged, few_and_many, fuzz, outcome

# Options of each part, right ones and wrong ones.
OPTIONS = {
    "model": ["widths", "activation", "dropout", "optimizer", "lr_scheduler", "l1_penalty"],
    "model.optimizer": ["name", "lr", "betas", "lr_multipliers", "momentum", "weight_decay", "x"],
    "model.lr_scheduler": ["name", "max_lr", "step_size", "warmup_fraction", "interval", "monitor"],
    "data": ["batch_size", "val_batch_size", "seed", "shuffle", "subset", "collate_fn", "shake"],
    "callbacks.gradient_clipping": ["max_norm", "max_value", "init_args"],
    "callbacks.gradient_accumulation": ["batches", "schedule", "effective_batch_size"],
    "callbacks.checkpoint": ["monitor", "mode", "every_n_steps", "class_path"],
    "callbacks.early_stopping": ["monitor", "patience", "min_delta", "mode"],
    "callbacks.nonfinite": ["action"],
    "callbacks.progress": ["interval_s"],
}
# What would take long, start processes, or not come back: not of a case.
COSTLY = {"devices", "num_nodes", "strategy", "max_time", "profiler", "fast_dev_run", "plugins"}
COSTLY |= {"limit_train_batches", "logger", "max_steps", "max_epochs", "min_steps", "min_epochs"}
COSTLY |= {"overfit_batches", "benchmark", "detect_anomaly", "default_root_dir"}


def options() -> list[str]:
    own = {f"trainer.{name}" for name in inspect.signature(Trainer).parameters}
    own -= {f"trainer.{name}" for name in COSTLY}
    own |= {f"{part}.{name}" for part, found in OPTIONS.items() for name in found}
    own |= {f"callbacks.{name}" for name in ("lr_monitor", "throughput", "layer_check", "none")}
    return sorted(own | {"model", "data", "callbacks", "trainer", "seed_everything", "run_name"})


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.sampled_from([2**31, 2**63, 10**30, -(2**70)]),
    st.floats(width=32),
    st.sampled_from(["", "min", "max", "val/loss", "SGD", "AdamW", "StepLR", "OneCycleLR", "relu"]),
    st.sampled_from(
        ["32", "auto", "bf16-mixed", "16-true", "cpu", "nan", "tests.lightkeel.tiny.TinyModel"]
    ),
    st.text(max_size=6),
)
KEYS = st.sampled_from(["name", "lr", "class_path", "init_args", "dict_kwargs", "max_norm", "0"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda part: (
        st.lists(part, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), part, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def one_option(draw: st.DrawFn) -> tuple[str, Any]:
    """Draw an option, misspelt at times, and a value that often fits."""
    name = draw(st.sampled_from(NAMES))
    if draw(st.integers(0, 9)) == 0:
        gap = draw(st.integers(0, len(name)))
        name = name[:gap] + name[gap + 1 :]
    likely: st.SearchStrategy[Any] = st.sampled_from(
        [0, 1, 2, 8, 0.5, 1.0, True, None, "val/loss", "max", [4], {}]
    )
    return name, draw(likely | likely | VALUES)


NAMES = options()
GIVEN = st.lists(one_option(), max_size=2)
CASES = st.fixed_dictionaries(
    {"file": GIVEN, "line": GIVEN, "equals": st.booleans(), "dry": st.booleans()}
)


def nested(given: list[tuple[str, Any]]) -> dict[str, Any]:
    """Turn options with dots into nested mappings, as a config has them."""
    tree: dict[str, Any] = {}
    for name, value in given:
        *parents, last = name.split(".")
        place = tree
        for part in parents:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place[last] = value
    return tree


def as_text(value: Any) -> str:
    """Write a value as a person would on the command line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    )


@few_and_many
def test_configurations(examples: int, tmp_path: Path) -> None:
    shutil.copy(TINY[1], tmp_path / "tiny.yaml")
    overlay, runs = tmp_path / "overlay.yaml", tmp_path / "runs"
    small = ["--trainer.max_steps", "1", "--trainer.max_epochs", "1", "--runs_dir", str(runs)]
    small += ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]

    def check(case: dict[str, Any]) -> None:
        overlay.write_text(yaml.safe_dump(nested(case["file"])))
        args = ["--config", str(tmp_path / "tiny.yaml"), "--config", str(overlay)]
        for name, value in case["line"]:
            option = [f"--{name}", as_text(value)]
            args += ["=".join(option)] if case["equals"] else option
        dry = ["--trainer.fast_dev_run", "1"] if case["dry"] else []
        status = outcome(train.main, [*args, *small, *dry])
        check_files(tmp_path)
        began = list(runs.glob("*/*/config.yaml"))
        assert bool(list(runs.rglob("*"))) <= bool(began)
        assert status == 2 or case["dry"] or began or "print_config" in str(args)
        shutil.rmtree(runs, ignore_errors=True)

    fuzz(check, CASES, examples)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has made one of two epochs."""
    runs = tmp_path_factory.mktemp("half")
    args = [*TINY, "--model.lr_scheduler.total_steps", "6", "--trainer.max_epochs", "1"]
    assert train.main([*args, "--runs_dir", str(runs), "--run_name", "run"]) == 0
    return runs / "tiny/run"


def copied(half: Path, folder: Path, content: bytes) -> Path:
    run = folder / "runs/tiny/run"
    shutil.rmtree(folder / "runs", ignore_errors=True)
    shutil.copytree(half, run)
    (run / "checkpoints/best.ckpt").unlink()
    (run / "checkpoints/last.ckpt").write_bytes(content)
    return run


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


@few_and_many
@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_checkpoints(command: str, examples: int, half: Path, tmp_path: Path) -> None:
    """What can still be read is what was written."""
    whole = half / "checkpoints/last.ckpt"
    right = weights(whole)

    def check(content: bytes) -> None:
        run = copied(half, tmp_path, content)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        if command == "evaluate":
            status = outcome(evaluate.main, [str(run)])
        else:
            more = ["--trainer.max_epochs", "2", "--runs_dir", str(tmp_path / "runs")]
            status = outcome(train.main, ["--resume", str(run), *more])
        if status == 2:
            files = [p for p in run.rglob("*") if p.is_file()]
            after = {path: path.read_bytes() for path in files if path in before}
            assert after == before
            assert all("tfevents" in path.name for path in files if path not in before)
        elif command == "evaluate":
            found = weights(run / "checkpoints/last.ckpt")
            assert all(torch.equal(found[name], tensor) for name, tensor in right.items())
        else:
            check_files(run)

    fuzz(check, damaged(whole.read_bytes()), examples)


CELLS = st.sampled_from(["1", "-2.5e3", "1e39", "nan", "", " ", "x", '"', '"a,b"', "\0", "é", "\r"])
ROWS = st.lists(st.lists(CELLS, max_size=6).map(",".join), max_size=6).map("\n".join)


def errors(rows: list[dict[str, Any]]) -> int:
    return sum("error" in row for row in rows)


@few_and_many
def test_tables(examples: int, half: Path, tmp_path: Path) -> None:
    """A row of predictions for each row, or one refusal."""
    table, output = tmp_path / "table.csv", tmp_path / "out.jsonl"
    good = b"a,b,c,d\n1,2,3,4\n5,6,7,8\n9,10,11,12\n"

    def check(content: bytes) -> None:
        table.write_bytes(content)
        output.unlink(missing_ok=True)
        status = outcome(predict.main, [str(half), str(table), "--output", str(output)])
        written = output.read_text().splitlines() if output.exists() else []
        rows = [json.loads(line) for line in written]
        assert [row["row"] for row in rows] == list(range(1, len(rows) + 1))
        assert all(("error" in row) != ("label" in row) for row in rows)
        assert (status == 2) == (not output.exists() or 0 < len(rows) == errors(rows))

    fuzz(check, damaged(good) | ROWS.map(str.encode) | st.binary(max_size=40), examples)


@few_and_many
def test_weights_of_paddle(examples: int, half: Path, tmp_path: Path) -> None:
    """A file that can still be read gives a checkpoint that is whole, any other gives none."""
    given, made = tmp_path / "theirs.pdparams", tmp_path / "theirs.ckpt"
    network = paddle_weights.network_of(load(half).model)
    paddle_weights.write(given, paddle_weights.to_paddle(network))
    config = ["--config", str(half / "config.yaml"), "--format", "ckpt"]

    def check(content: bytes) -> None:
        given.write_bytes(content)
        made.unlink(missing_ok=True)
        status = outcome(export.main, [str(given), *config])
        assert made.exists() == (status == 0)
        check_files(tmp_path)

    fuzz(check, damaged(given.read_bytes()), examples)
