"""What every config and model of a project promises, asked of each without being told of it.

Each function returns a test, with a case for each config or model that the project has. What needs
data, a server or a package that is not on this machine is skipped, with the reason.
"""

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule

from ..commands.train import main as train
from ..data.in_memory import InMemoryDataModule
from ..errors.bad_input import Arguments
from ..options.cli import ProjectCLI
from ..project import Project
from ..runs.checkpoints import plain
from ..runs.sweeps import SWEEPS
from ..sweep.arguments import add_arguments, read_sweep
from ..sweep.probe import check_values

Test = Callable[..., None]
SMALL = {"num_samples": 64, "num_val_samples": 16, "num_test_samples": 16, "val_fraction": 0.2}
SMALL |= {"batch_size": 16, "val_batch_size": 16}
ABSENT = (FileNotFoundError, URLError, ConnectionError)
# Images are made for these: where they are read from.
IMAGES = {"CIFAR10DataModule": "data_dir", "ImageFolderDataModule": "roots"}
ON_CPU = ("accelerator=cpu", "devices=1", "num_nodes=1", "strategy=auto")
# Whatever a config says of them: one epoch of a few batches here, written nowhere else.
QUICK = [
    *("max_epochs=1", "max_steps=-1", "min_epochs=null", "min_steps=null", "fast_dev_run=false"),
    *(f"limit_{split}_batches=4" for split in ("train", "val", "test")),
    *("val_check_interval=null", "check_val_every_n_epoch=1", "logger=null"),
    *ON_CPU,
]


def experiment_tests(project: Project) -> Test:
    """Test that each complete config trains, and resolves to what resolves to itself."""

    @pytest.mark.parametrize("name", experiments(project))
    def test(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(project.root)  # from there configs name files
        args = [*quick(project, name, tmp_path / "images"), "--runs_dir", str(tmp_path / "runs")]
        with skipped_where_absent():
            assert train(project, [*args, "--run_name", "r"]) == 0
        run = tmp_path / "runs" / name / "r"
        assert json.loads((run / "metrics.json").read_text())["epochs"] == 1
        with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit, match="0"):
            train(project, ["--config", str(run / "config.yaml"), "--print_config"])
        saved = yaml.safe_load((run / "config.yaml").read_text())
        assert yaml.safe_load(printed.getvalue()) == saved

    return test


def overlay_tests(project: Project) -> Test:
    """Test that what has no model can be laid over the default experiment, or another."""
    whole = sorted(experiments(project), key=lambda name: name != project.default_config)
    parts = {path.stem for path in project.configs.glob("*.yaml")} - set(whole)
    parts |= {f"overlays/{path.stem}" for path in project.configs.glob("overlays/*.yaml")}

    @pytest.mark.parametrize("name", sorted(parts))
    def test(name: str) -> None:
        said = []
        for experiment in whole:
            with redirect_stderr(StringIO()) as errors, pytest.raises(SystemExit) as exit_:
                train(project, ["--config", experiment, "--config", name, "--print_config"])
            if exit_.value.code == 0:
                return
            if cause := absent(exit_.value):
                pytest.skip(str(cause))
            said.append(f"over {experiment}: {errors.getvalue()}")
        pytest.fail("\n".join(said))

    return test


def sweep_tests(project: Project) -> Test:
    """Test that each sweep is read, and that its experiment takes every value of its space."""
    paths = sorted(project.configs.glob(f"{SWEEPS}/*.yaml"))

    @pytest.mark.parametrize("name", [path.stem for path in paths])
    def test(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(project.root)
        project.use()
        parser = Arguments()
        add_arguments(parser)
        sweep = read_sweep(parser.parse_args([f"{SWEEPS}/{name}"]), {})
        on_cpu = (f"--trainer.{setting}" for setting in ON_CPU)
        with skipped_where_absent():
            check_values(replace(sweep, options=(*sweep.options, *on_cpu)))
        if find_spec("optuna"):
            from ..sweep import engines, study

            engines.try_out(sweep.space, study.sampler_of(sweep, 0), study.pruner_of(sweep))

    return test


def model_cases(project: Project) -> list[tuple[str, str]]:
    """List the models in the package, each with every config that names it."""
    models = import_module(f"{project.package}.models")
    chosen = {name: class_path(content["model"]) for name, content in experiments(project).items()}
    return [
        (name, config)
        for name, found in vars(models).items()
        if isinstance(found, type) and issubclass(found, LightningModule)
        for config, path in chosen.items()
        if path in (name, f"{models.__name__}.{name}", f"{found.__module__}.{found.__qualname__}")
    ]


def model_tests(project: Project) -> Test:
    """Test that each model trains, saves plain values, and is brought back by them bit for bit."""

    @pytest.mark.parametrize(("name", "config"), model_cases(project))
    def test(name: str, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(project.root)
        path = tmp_path / "model.ckpt"
        with skipped_where_absent():
            first, second = (build(project, config, tmp_path) for _ in range(2))
            at_once = second.model.state_dict().keys()
            first.trainer.fit(first.model, datamodule=first.datamodule)
        assert 1 <= first.trainer.fit_loop.epoch_loop.total_batch_idx + 1 <= 4
        first.trainer.save_checkpoint(path)
        saved = torch.load(path, weights_only=True)["state_dict"]
        second.trainer.fit(second.model, datamodule=second.datamodule, ckpt_path=str(path))
        assert second.trainer.global_step == first.trainer.global_step
        models = [second.model]
        if at_once == saved.keys() and keeps_arguments(first.model):  # it can rebuild itself
            models.append(type(first.model).load_from_checkpoint(path, weights_only=True))
        for model in models:
            found = {key: value for key, value in model.state_dict().items() if key in saved}
            torch.testing.assert_close(found, saved, atol=0, rtol=0, equal_nan=True)

    return test


def build(project: Project, config: str, folder: Path) -> ProjectCLI:
    """Build the model of a config, small data for it and a trainer, as the command line does."""
    project.use()
    args = [*quick(project, config, folder / "images"), "--runs_dir", str(folder)]
    return ProjectCLI(args, training=False)


def keeps_arguments(model: LightningModule) -> bool:
    """Tell whether a checkpoint has every argument that the model was made with, as it was."""
    parts = inspect.signature(type(model)).parameters.values()
    names = {p.name for p in parts if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return names <= model.hparams.keys() and bool(plain(dict(model.hparams)) == dict(model.hparams))


def experiments(project: Project) -> dict[str, dict[str, Any]]:
    """Read the configs of experiments, by name; what has no model is to be laid over them."""
    paths = sorted(project.configs.glob("*.yaml"))
    read = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths}
    return {name: config for name, config in read.items() if "model" in (config or ())}


def class_path(section: Any) -> str:
    """Name the class that a section of a config chooses, as it is written there; "": none."""
    chosen = section.get("class_path") if isinstance(section, dict) else section
    return str(chosen or "")


def quick(project: Project, name: str, folder: Path) -> list[str]:
    """List the options for a short run of an experiment; images for it are made in ``folder``."""
    config = experiments(project)[name]
    given = ["--config", name] if name != project.default_config else []  # it goes without saying
    given += [f"--trainer.{setting}" for setting in QUICK]
    if (config.get("callbacks") or {}).get("gradient_accumulation"):
        given += ["--callbacks.gradient_accumulation", "null"]  # sizes fit its own batches
    module, _, cls = class_path(config.get("data")).rpartition(".")
    found = getattr(import_module(module or f"{project.package}.data"), cls, None)
    if isinstance(found, type) and issubclass(found, InMemoryDataModule):
        model = config["model"] if isinstance(config["model"], dict) else {}
        num_classes = (model.get("init_args") or {}).get("num_classes", 10)
        for option, value in small(found, folder, num_classes).items():
            given += [f"--data.{option}", str(value)]
    return given


def small(cls: type, folder: Path, num_classes: int) -> dict[str, Any]:
    """Choose values for options that a datamodule of arrays has; make the images it would read."""
    chosen: dict[str, Any] = {**SMALL}
    if source := IMAGES.get(cls.__name__):
        make_images(folder, num_classes)
        chosen[source] = [str(folder)] if source == "roots" else str(folder)
    accepted = ArgumentParser().add_class_arguments(cls, fail_untyped=False)
    return {name: value for name, value in chosen.items() if name in accepted}


def make_images(folder: Path, num_classes: int) -> None:
    """Write images of a pattern a class, 32 x 32 pixels, ten to train on and two to test."""
    for split, count in {"train": 10, "test": 2}.items():
        for number in range(num_classes):
            place = folder / split / f"class{number}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                values = ((number + 1) * (i + pixel) ** 2 % 251 for pixel in range(3 * 32**2))
                (place / f"{i}.ppm").write_bytes(b"P6 32 32 255\n" + bytes(values))


@contextmanager
def skipped_where_absent() -> Iterator[None]:
    """Skip a test, with the reason, where what an experiment needs is not on this machine."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if (cause := absent(error)) is None:
            raise
        pytest.skip(str(cause))


def absent(error: BaseException | None) -> BaseException | None:
    """Find what an error comes from: a file, a server or a package that is not there."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    is_missing = name and find_spec(name.partition(".")[0]) is None  # else a part is misspelt
    if error is None or is_missing or isinstance(error, ABSENT):
        return error
    return absent(error.__cause__)
