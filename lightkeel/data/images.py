"""Images as bytes in one array, normalized and augmented on the device."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors.checks import at_least, suggest
from ..project import current
from . import decoding, philox
from .in_memory import InMemoryDataModule, Split
from .sampling import TrainingSampler

Augmentation = Callable[[Tensor, Tensor], Tensor]


class Normalize(nn.Module):
    """Bring pixels about zero: (B, H, W, C) uint8 -> (B, C, H, W) float32."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # pixel / 255 normalized, as one multiplication and one addition
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in std]))
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> Tensor:
        normalized = torch.addcmul(self.shift, images, self.scale)
        return normalized.permute(0, 3, 1, 2)  # memory stays (B, H, W, C): channels_last

    def inverse(self, inputs: Tensor) -> Tensor:
        """Bring back pixels from what a model is given: (B, C, H, W) -> (B, H, W, C) uint8."""
        pixels = (inputs.permute(0, 2, 3, 1).float() - self.shift) / self.scale
        return pixels.round().clamp(0, 255).byte()


class ImageDataModule(InMemoryDataModule):
    """Serve images (B, C, H, W) float32 from arrays (N, H, W, C) uint8, and labels (B,) int64.

    All splits are normalized alike; training images are augmented first. The augmentation of a
    sample is a function of (seed, epoch, row): the same in any batch, on any device. What a
    ``collate_fn`` returns as other than uint8 is left as it is.

    Args:
        image_size_px: Height and width of an image.
        mean: Of each channel, in [0, 1] units.
        std: Of each channel, in [0, 1] units.
        augment: Functions of ``data/augment.py`` to their settings, applied in this order.
        kwargs: See ``InMemoryDataModule``.
    """

    in_channels = 3

    def __init__(
        self,
        image_size_px: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: dict[str, dict[str, Any] | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        at_least(1, image_size_px=image_size_px)
        if len(std) not in (1, 3) or len(mean) != len(std) or min(std, default=0) <= 0:
            wanted = "must be positive, one or three, and as many as in mean."
            raise ValueError(f"std: {list(std)} {wanted}")
        self.image_size_px = image_size_px
        self._normalize = Normalize(mean, std)
        self._augmentations = find_augmentations(augment or {}, image_size_px)
        self._draws: tuple[Any, dict[str, Tensor]] = (None, {})  # of which epoch and device

    def transform(self, inputs: Tensor, rows: Tensor, split: Split) -> Tensor:
        """Augment (training only) and normalize: (B, H, W, C) uint8 -> (B, C, H, W) float32."""
        if inputs.dtype != torch.uint8:
            return inputs.permute(0, 3, 1, 2)
        if split == "train" and self._augmentations:
            draws = self._epoch_draws(inputs.device)
            for name, augmentation in self._augmentations.items():
                inputs = augmentation(inputs, draws[name][rows])
        return self._normalize_on(inputs.device)(inputs)  # type: ignore[no-any-return]

    def preprocessing(self) -> nn.Module:
        return deepcopy(self._normalize).cpu()

    def read_image(self, file: Path) -> Tensor:
        """Read an image of any size as a sample: scaled and cropped to (H, W, 3) uint8."""
        return torch.from_numpy(decoding.decode_one(file, self.image_size_px, resize=True).copy())

    def find_images(self, folder: Path) -> list[Path]:
        """List the images in a folder and the folders within, sorted, and say what is none."""
        images, others = decoding.find_images(folder)
        decoding.say_passed_over(f"INPUT {folder}", others, decoding.NO_IMAGE)
        return images

    def pixels(self, inputs: Tensor) -> Tensor:
        """Bring back pixels from inputs of the model: (B, C, H, W) -> (B, H, W, C) uint8."""
        return self._normalize_on(inputs.device).inverse(inputs)

    def training_images(self, most: int) -> Tensor:
        """Return the first ``most`` training images, normalized: (N, C, H, W) float32."""
        dataset = self.datasets["train"]
        rows = dataset.rows[:most]
        return self.transform(dataset.arrays.inputs[rows], rows, "val")

    def originals(self, most: int) -> Tensor | None:
        """Return the first images of this epoch as they are stored: (N, H, W, C) uint8.

        None where they are no bytes, or the order is that of somebody's own sampler.
        """
        loader: Any = self.trainer.train_dataloader if self.trainer else None
        sampler, (images, _) = loader.sampler, self.datasets["train"].arrays
        if not isinstance(sampler, TrainingSampler) or images.dtype != torch.uint8:
            return None
        return images[self.datasets["train"].rows[next(sampler.batches())[:most].cpu()]]

    def _normalize_on(self, device: torch.device) -> Normalize:
        if self._normalize.scale.device != device:
            self._normalize.to(device)
        return self._normalize

    def _epoch_draws(self, device: torch.device) -> dict[str, Tensor]:
        """Random numbers for all rows of the epoch, drawn once: in a batch it is one gather."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        if self._draws[0] != (epoch, device):
            num_rows = len(self.datasets["train"].arrays.targets)
            there = device if device.type == "cuda" else None  # 64 bits as here
            names = self._augmentations
            draws = {n: draw(num_rows, self.seed, epoch, n, there).to(device) for n in names}
            self._draws = (epoch, device), draws
        return self._draws[1]


def draw(
    num_rows: int, seed: int, epoch: int, name: str, device: torch.device | None = None
) -> Tensor:
    """Draw the random numbers of an augmentation for each row: (N, 4) in [0, 1).

    Of a name that begins with ``alternating``, every other epoch has the mirror images 1 - draw.
    """
    if not name.startswith("alternating"):
        return philox.uniform(num_rows, seed, epoch, name, device)
    draws = philox.uniform(num_rows, seed, 0, name, device)
    return (1 - draws).clamp(max=1 - 2**-24) if epoch % 2 else draws


def find_augmentations(
    settings: Mapping[str, Mapping[str, Any] | None], size_px: int
) -> dict[str, Augmentation]:
    """Find functions of the project, bind their settings, and try them on an image of the size."""
    place, functions = f"{current().package}.data.augment".lstrip("."), []
    try:
        module = importlib.import_module(place) if settings else None
        functions = inspect.getmembers(module, inspect.isfunction)
    except ModuleNotFoundError as error:
        if not place.startswith(error.name or place):
            raise
    choices = {name: function for name, function in functions if not name.startswith("_")}
    found: dict[str, Augmentation] = {}
    for name, options in settings.items():
        if name not in choices:
            raise ValueError(f"augment.{name}: no such augmentation. {suggest(name, choices)}")
        accepted = list(inspect.signature(choices[name]).parameters)[2:]
        for option in [option for option in options or {} if option not in accepted]:
            hint = suggest(option, accepted)
            raise ValueError(f"augment.{name}.{option}: {name} has no such option. {hint}")
        found[name] = partial(choices[name], **(options or {}))
        try:
            found[name](torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8), torch.zeros(1, 4))
        except ValueError as error:
            raise ValueError(f"augment.{name}.{error}") from None
        except (TypeError, IndexError, RuntimeError) as error:
            raise ValueError(f"augment.{name}: {options} does not fit: {error}.") from None
    return found
