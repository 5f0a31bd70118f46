"""What every config and model of a project promises, asked of each without being told of it.

Each function returns a test, with a case for each config or model that the project has. What needs
data, a server or a package that is not on this machine is skipped, with the reason.
"""

import inspect
import json
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule

from ..commands.train import main as train
from ..options.cli import ProjectCLI
from ..project import Project
from ..runs.checkpoints import plain
from .quick import absent, class_path, experiments, quick, skipped_where_absent

Test = Callable[..., None]


@pytest.fixture(autouse=True)
def restored_environment() -> Iterator[None]:
    """Undo what a run leaves in the environment, such as its seed: for a ``conftest.py``."""
    with patch.dict(os.environ):
        os.environ.pop("PL_GLOBAL_SEED", None)
        yield


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


def model_tests(project: Project) -> Test:
    """Test that each model trains, saves plain values, and is brought back by them bit for bit."""
    models = import_module(f"{project.package}.models")
    chosen = {name: class_path(content["model"]) for name, content in experiments(project).items()}
    cases = [
        (name, config)  # each model in the package, with every config that names it
        for name, found in vars(models).items()
        if isinstance(found, type) and issubclass(found, LightningModule)
        for config, path in chosen.items()
        if path in (name, f"{models.__name__}.{name}", f"{found.__module__}.{found.__qualname__}")
    ]

    @pytest.mark.parametrize(("name", "config"), cases)
    def test(name: str, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(project.root)
        path = tmp_path / "model.ckpt"
        args = [*quick(project, config, tmp_path / "images"), "--runs_dir", str(tmp_path)]
        with skipped_where_absent():
            project.use()
            first, second = (ProjectCLI(args, training=False) for _ in range(2))
            at_once = second.model.state_dict().keys()
            first.trainer.fit(first.model, datamodule=first.datamodule)
        assert 1 <= first.trainer.fit_loop.epoch_loop.total_batch_idx + 1 <= 4
        first.trainer.save_checkpoint(path)
        saved = torch.load(path, weights_only=True)["state_dict"]
        second.trainer.fit(second.model, datamodule=second.datamodule, ckpt_path=str(path))
        assert second.trainer.global_step == first.trainer.global_step
        _check_weights(second.model, saved)
        if at_once == saved.keys() and _keeps_arguments(first.model):  # it can rebuild itself
            _check_weights(type(first.model).load_from_checkpoint(path, weights_only=True), saved)

    return test


def _keeps_arguments(model: LightningModule) -> bool:
    """Tell whether a checkpoint has every argument that the model was made with, as it was."""
    parts = inspect.signature(type(model)).parameters.values()
    names = {p.name for p in parts if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return names <= model.hparams.keys() and bool(plain(dict(model.hparams)) == dict(model.hparams))


def _check_weights(model: LightningModule, saved: dict[str, torch.Tensor]) -> None:
    found = {name: value for name, value in model.state_dict().items() if name in saved}
    torch.testing.assert_close(found, saved, atol=0, rtol=0, equal_nan=True)
