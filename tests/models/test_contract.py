"""What every model of the package promises, asked of each without being told of it.

Of any LightningModule: by its config, it trains, and a checkpoint brings back its weights.
"""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from lightkeel.options.cli import ProjectCLI
from src import models
from src.models.supervised import SupervisedModule
from tests.lightkeel.fitting import fit
from tests.lightkeel.places import ROOT
from tests.lightkeel.small import class_path, experiments, quick, skipped_where_absent

# Of each model, how a config may name it.
NAMES = {
    name: {name, f"{models.__name__}.{name}", f"{found.__module__}.{found.__qualname__}"}
    for name, found in vars(models).items()
    if isinstance(found, type) and issubclass(found, LightningModule)
}
CASES = [
    (model, config)
    for model, names in NAMES.items()
    for config, content in experiments().items()
    if class_path(content["model"]) in names
]


def build(config: str, folder: Path) -> ProjectCLI:
    """Build the model of a config and small data for it, as the command line does."""
    args = [*quick(config, folder / "images"), "--runs_dir", str(folder)]
    return ProjectCLI(args, training=False)


def takes_what_it_saves(model: LightningModule) -> bool:
    """Tell whether a model has kept every argument that it was made with."""
    return {
        name
        for name, parameter in inspect.signature(type(model)).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    } <= model.hparams.keys()


@pytest.mark.parametrize(("name", "config"), CASES)
def test_model(tmp_path: Path, name: str, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # from there configs name files
    few: dict[str, Any] = {"limit_train_batches": 4, "limit_val_batches": 1}
    with skipped_where_absent():
        first, second = build(config, tmp_path), build(config, tmp_path)
        trainer = fit(tmp_path, first.model, first.datamodule, **few)
    assert 1 <= trainer.fit_loop.epoch_loop.total_batch_idx + 1 <= 4

    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)["state_dict"]
    resumed = fit(tmp_path, second.model, second.datamodule, ckpt_path=path, **few)
    assert resumed.global_step == trainer.global_step
    check_weights(second.model, saved)
    if isinstance(first.model, SupervisedModule) and takes_what_it_saves(first.model):
        check_weights(type(first.model).load_from_checkpoint(path, weights_only=True), saved)


def check_weights(model: LightningModule, saved: dict[str, torch.Tensor]) -> None:
    """Check that a model has what was saved, bit for bit."""
    found = {name: value for name, value in model.state_dict().items() if name in saved}
    torch.testing.assert_close(found, saved, atol=0, rtol=0, equal_nan=True)
