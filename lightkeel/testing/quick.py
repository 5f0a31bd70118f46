"""The experiments of a project, whoever wrote them, small enough for a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import yaml
from jsonargparse import ArgumentParser

from ..data.in_memory import InMemoryDataModule
from ..project import Project

SMALL = {"num_samples": 64, "num_val_samples": 16, "num_test_samples": 16, "val_fraction": 0.2}
SMALL |= {"batch_size": 16, "val_batch_size": 16}
# Images are made for these: where they are read from.
IMAGES = {"CIFAR10DataModule": "data_dir", "ImageFolderDataModule": "roots"}
# Whatever a config says of them: one epoch of a few batches here, written nowhere else.
QUICK = [
    *("max_epochs=1", "max_steps=-1", "min_epochs=null", "min_steps=null", "fast_dev_run=false"),
    *(f"limit_{split}_batches=4" for split in ("train", "val", "test")),
    *("val_check_interval=null", "check_val_every_n_epoch=1", "logger=null"),
    *("accelerator=cpu", "devices=1", "num_nodes=1", "strategy=auto"),
]


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
    """Write images of one shade a class, 32 x 32 pixels, ten to train on and two to test."""
    for split, count in {"train": 10, "test": 2}.items():
        for number in range(num_classes):
            place = folder / split / f"class{number}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                shade = bytes([255 * number // num_classes, 0, 0])
                (place / f"{i}.ppm").write_bytes(b"P6 32 32 255\n" + shade * 32**2)


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
    if (
        error is None
        or is_missing
        or isinstance(error, (FileNotFoundError, URLError, ConnectionError))
    ):
        return error
    return absent(error.__cause__)
