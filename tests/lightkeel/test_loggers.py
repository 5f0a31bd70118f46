"""Loggers beside a run's own: one overlay each, and all metrics of the run reach them."""

import csv
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import loggers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from src.train import main as train
from tests.lightkeel.browsing import browsing, fetch, needs_chromium, serving
from tests.lightkeel.commands import TRAIN, fails, finish, start
from tests.lightkeel.conftest import TINY
from tests.lightkeel.places import ROOT

Values = dict[tuple[str, int], float]


def overlay(name: str) -> list[str]:
    """Options of the overlay of a logger; skip where the environment has none."""
    return ["--config", f"overlays/{name}"]


def in_csv(run: Path) -> Values:
    """Read each value in ``metrics.csv``, by name and step."""
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        (name, int(row["step"])): float(value)
        for row in rows
        for name, value in row.items()
        if value and name not in ("step", "epoch")
    }


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Read a log as LevelDB keeps it, with a header of W&B's own: blocks of 32 KiB with pieces."""
    place, record = 7, b""
    while place + 7 <= len(log):
        if (left := 32768 - place % 32768) < 7:  # no piece begins there
            place += left
            continue
        length, kind = struct.unpack_from("<4xHB", log, place)
        record += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def in_wandb(file: Path) -> tuple[Values, dict[str, Any]]:
    """Read each value in the file of an offline run, by name and step, and the run's settings."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    values: Values = {}
    settings: dict[str, Any] = {}
    for data in leveldb_records(file.read_bytes()):
        record = messages.Record()
        record.ParseFromString(data)
        if record.run.display_name:
            settings["name"] = record.run.display_name
        for update in (*record.run.config.update, *record.config.update):
            settings[update.key] = json.loads(update.value_json)
        items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
        row = {name: json.loads(value) for name, value in items.items()}
        step = row.pop("trainer/global_step", None)
        values |= {(name, step): value for name, value in row.items() if name[0] != "_"}
    return {key: value for key, value in values.items() if key[0] != "epoch"}, settings


@pytest.mark.extras
def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = overlay("wandb")
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    before = set(ROOT.iterdir())
    runs = tmp_path / "runs"
    args = [*TINY, *chosen, "--runs_dir", str(runs)]
    finish(start(*TRAIN, *args))
    (run,) = runs.glob("tiny/*")
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    values, settings = in_wandb(file)
    assert values == in_csv(run)
    assert {name for name, _ in values} >= {"train/loss", "val/acc", "test/acc", "lr", "grad/norm"}
    assert (settings["name"], settings["widths"]) == (f"tiny/{run.name}", [6])
    assert settings["optimizer"] == {"name": "AdamW", "lr": 0.01}
    assert set(ROOT.iterdir()) == before
    assert {path.name for path in (tmp_path / "home").iterdir()} <= {".cache", ".config"}


@pytest.mark.extras
def test_wandb_without_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = overlay("wandb")
    pytest.importorskip("wandb")
    for name in ("HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    args = [*TINY, *chosen, "--runs_dir", str(tmp_path / "runs")]
    errors = finish(start(*TRAIN, *args), status=2)
    assert "error: trainer.logger: Weights & Biases says: No API key configured." in errors
    assert errors.endswith("\n  Run `wandb login`, or set WANDB_MODE=offline.\n")
    assert "Traceback" not in errors
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server."""
    overlay("mlflow")
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("mlflow")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "0"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with serving(command, folder / "log.txt", r"running on (http://\S+)") as url:
        yield url


@pytest.fixture(scope="module")
def tracked(server: str, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Train with MLflow; the folder of the run, and what the server knows of it."""
    runs = tmp_path_factory.mktemp("runs")
    args = [*TINY, *overlay("mlflow"), "--trainer.logger.tracking_uri", server]
    assert train([*args, "--runs_dir", str(runs)]) == 0
    (run,) = runs.glob("tiny/*")
    (known,) = fetch(f"{server}/api/2.0/mlflow/runs/search", experiment_ids=["1"])["runs"]
    return SimpleNamespace(folder=run, **known)


@pytest.mark.extras
def test_mlflow(server: str, tracked: SimpleNamespace) -> None:
    values: Values = {}
    for name in {metric["key"] for metric in tracked.data["metrics"]} - {"epoch"}:
        query = f"run_id={tracked.info['run_id']}&metric_key={name}"
        history = fetch(f"{server}/api/2.0/mlflow/metrics/get-history?{query}")["metrics"]
        values |= {(name, int(value["step"])): value["value"] for value in history}
    assert values == in_csv(tracked.folder)
    final = json.loads((tracked.folder / "metrics.json").read_text())
    for metric in tracked.data["metrics"]:
        if metric["key"] in ("train/loss", "val/loss", "test/loss", "test/acc"):
            assert metric["value"] == final.pop(metric["key"])
    assert "test/loss" not in final
    params = {param["key"]: param["value"] for param in tracked.data["params"]}
    assert (params["widths"], params["optimizer/name"]) == ("[6]", "AdamW")
    assert tracked.info["status"] == "FINISHED"
    assert tracked.info["run_name"] == f"tiny/{tracked.folder.name}"
    assert tracked.folder.name not in (tracked.folder / "config.yaml").read_text()


@pytest.mark.extras
@pytest.mark.browser
@needs_chromium
def test_mlflow_in_a_browser(server: str, tracked: SimpleNamespace, tmp_path: Path) -> None:
    info, folder = tracked.info, tmp_path / "profile"
    accuracy = next(m["value"] for m in tracked.data["metrics"] if m["key"] == "test/acc")
    with browsing(folder) as page:
        page.open(f"{server}/#/experiments/{info['experiment_id']}/runs/{info['run_id']}")
        page.shows(info["run_name"], "test/acc", f"{accuracy:.3g}", "widths")
        page.screenshot("mlflow", tmp_path)


@pytest.mark.extras
def test_mlflow_without_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    args = [*TINY, *overlay("mlflow"), "--runs_dir", str(tmp_path / "runs")]
    message = "trainer.logger: MLflow says: API request to http://127.0.0.1:9/…"
    fails(train, [*args, "--trainer.logger.tracking_uri", "http://127.0.0.1:9"], message, capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("name", "logger"), [("wandb", "WandbLogger"), ("mlflow", "MLFlowLogger")])
def test_package_that_is_not_installed(
    name: str,
    logger: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(getattr(loggers, name), f"_{name.upper()}_AVAILABLE", False)
    how = f"Run `make setup ADD={name}`."
    if not (ROOT / "locks" / f"{name}.lock").exists():
        how = "Install it."
    message = f"trainer.logger: {logger} needs {name}, which is not installed.\n  {how}"
    args = [*TINY, *overlay(name), "--runs_dir", str(tmp_path / "runs")]
    fails(train, args, message, capsys)


def test_settings_beside_metrics_in_tensorboard(tiny_run: Path) -> None:
    """Its table of hyperparameters, in the run's own folder, and of each value one point."""
    events = EventAccumulator(str(tiny_run)).Reload()
    content = [
        HParamsPluginData.FromString(metadata.plugin_data.content)
        for metadata in events.summary_metadata.values()
        if metadata.plugin_data.plugin_name == "hparams"
    ]
    (started,) = (c.session_start_info.hparams for c in content if c.HasField("session_start_info"))
    assert (started["model"].string_value, started["data"].string_value) == (
        "TinyModel",
        "TinyData",
    )
    assert started["model.optimizer.lr"].number_value == 0.01
    assert started["seed_everything"].number_value == 0
    assert {name.partition(".")[0] for name in started} == {
        *("model", "data", "seed_everything", "trainer")
    }
    (compared,) = (c.experiment.metric_infos for c in content if c.HasField("experiment"))
    names = {info.name.tag for info in compared}
    of_splits = {
        f"{split}/{name}" for split in ("train", "val", "test") for name in ("loss", "acc")
    }
    assert names == of_splits | {"samples_per_s"}
    assert [event.step for event in events.Scalars("test/acc")] == [6]
    assert [event.step for event in events.Scalars("val/acc")] == [2, 5]
    # No run within the run, as `add_hparams` makes one.
    folders = {path.name for path in tiny_run.iterdir() if path.is_dir()}
    assert folders - {"evaluation", "exports"} == {"checkpoints"}
