"""A trained model that is ready for use: samples in, probabilities or values out."""

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from ..data.table import Standardize
from ..errors.bad_input import InputError
from ..options.cli import ProjectCLI
from ..project import current
from ..runs import checkpoints
from ..runs.find import Run, find_run
from ..runs.safe_yaml import flatten, load as load_yaml


# A LightningModule, whose `device` does not follow its weights when a plain module that holds it is
# moved: one that is a LightningModule too tells all those within.
class Predictor(LightningModule):
    """A model with its preprocessing.

    Takes samples as their source holds them: images (B, H, W, 3) uint8, or rows (B, F) float32.
    Gives probabilities (B, K) float32 where the model tells classes apart (it has a hyperparameter
    ``num_classes``, and its outputs are scores or probabilities), else its values.

    Attributes:
        class_names: One a class, in the order of their numbers; None for a model of values.
    """

    def __init__(self, model: LightningModule, preprocess: nn.Module, data: Any) -> None:
        super().__init__()
        self.model, self.preprocess, self.data = model, preprocess, data
        number = model.hparams.get("num_classes")
        self.class_names = None if number is None else [str(place) for place in range(number)]
        self._gives_probabilities = False
        self.eval().requires_grad_(False)
        known = self.takes_images or self.num_features or hasattr(data, "example_inputs")
        if not known:
            raise InputError(
                f"model: {type(model).__name__} does not tell how many numbers it takes. Give it a "
                "hyperparameter `num_features`."
            )
        if self.class_names is not None:
            # Whatever its weights are: a softmax at its end is not to be followed by another.
            outputs = self.model(self.preprocess(self.random_samples(4))).float()
            off = (outputs.sum(1) - 1).abs().max()
            self._gives_probabilities = bool((outputs >= 0).all() and off < 1e-4)

    def name_classes(self, names: Any) -> None:
        """Give classes the names in a list, one for each; without one, they keep theirs."""
        if names is None or self.class_names is None:
            return
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("RUN: what should be the names of its classes are none.")
        if len(names) != (number := len(self.class_names)):
            raise ValueError(f"RUN: has names of {len(names)} classes, and the model {number}.")
        self.class_names = names

    def forward(self, samples: Tensor) -> Tensor:
        return self.finish(self.model(self.preprocess(samples)))

    def finish(self, outputs: Tensor) -> Tensor:
        """Turn class scores of the model into probabilities, and leave other outputs."""
        scores = self.class_names is not None and not self._gives_probabilities
        return outputs.float().softmax(1) if scores else outputs

    @property
    def takes_images(self) -> bool:
        """Whether a sample is an image, and no row of numbers."""
        return hasattr(self.data, "read_image")

    @property
    def num_features(self) -> int | None:
        """Numbers in a row, where samples are rows."""
        return None if self.takes_images else self.model.hparams.get("num_features")

    def read(self, file: str | Path) -> Tensor:
        """Read an image file as the run's data would: (H, W, 3) uint8.

        Raises:
            ValueError: It cannot be read, or the model takes rows.
        """
        if not self.takes_images:
            rows = f"({', '.join(['N', str(self.num_features or '...')])}) float32"
            order = " in the order of predictor.data.feature_names"
            order = order if hasattr(self.data, "feature_names") else ""
            raise ValueError(f"read: is for images. Call predictor(rows) with rows {rows}{order}.")
        return self.data.read_image(Path(file))  # type: ignore[no-any-return]

    def random_samples(self, number: int, seed: int = 0) -> Tensor:
        """Make samples of the right shape, to try a model with."""
        if not self.takes_images and self.num_features is None:
            return self.data.example_inputs(number)  # type: ignore[no-any-return]
        random = torch.Generator().manual_seed(seed)
        if self.takes_images:
            size = self.data.image_size_px
            return torch.randint(256, (number, size, size, 3), dtype=torch.uint8, generator=random)
        rows = torch.randn(number, self.num_features or 1, generator=random)
        return self.preprocess.inverse(rows) if isinstance(self.preprocess, Standardize) else rows


class ModelCLI(ProjectCLI):
    """The model and data of a configuration, on the CPU, whatever it was trained on."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        return Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)


def load(
    run: str | Path = "last",
    runs_dir: str | Path = "runs",
    checkpoint: str = "best",
    configs: Sequence[str] = (),
) -> Predictor:
    """Load the model of a run, ready for use.

    Args:
        run: A run folder, a .ckpt file, or ``last`` for the newest run.
        runs_dir: Where ``last`` looks.
        checkpoint: Of a folder, which one: ``best`` or ``last``.
        configs: What the model of a lone .ckpt file was trained with.

    Raises:
        InputError: There is no such run.
        ValueError: The checkpoint is damaged, or of another model than its configuration's.
    """
    found = find_run(str(run), Path(runs_dir), checkpoint)
    if not current().package and found.folder is not None:
        import_project(found.folder)
    return load_run(found, configs)


def import_project(folder: Path) -> None:
    """Import the packages that a run's classes are of: the project of one then is at work."""
    settings = flatten(load_yaml((folder / "config.yaml").read_text(encoding="utf-8")))
    paths = (str(value) for key, value in settings.items() if key.endswith("class_path"))
    for package in sorted({path.partition(".")[0] for path in paths}):
        if find_spec(package) is not None:
            import_module(package)


def load_run(run: Run, configs: Sequence[str] = (), read_weights: Any = None) -> Predictor:
    """Load the model of a run that has been found, from a checkpoint or by ``read_weights``."""
    path = run.checkpoint
    checkpoint = {} if read_weights else checkpoints.load_checkpoint(path)
    cli = ModelCLI(run.options(configs), training=False)
    data = cli.datamodule
    checkpoint = checkpoint or read_weights(path, cli.model)
    if not hasattr(data, "preprocessing"):
        raise InputError(
            f"data: {type(data).__name__} does not tell how it prepares samples. Give it a method "
            "`preprocessing`, as InMemoryDataModule has."
        )
    checkpoints.restore_data(checkpoint, data)
    predictor = Predictor(cli.model, data.preprocessing(), data)
    with suppress(OSError, ValueError):  # the images that it was trained on may not be here
        predictor.name_classes(getattr(data, "class_names", None))
    checkpoints.check_matches(path, checkpoint, predictor.model)
    predictor.model.load_state_dict(checkpoint["state_dict"])
    predictor.name_classes(checkpoint.get("class_names"))
    return predictor
