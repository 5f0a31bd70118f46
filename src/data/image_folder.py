"""A person's own images, in one folder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .images import ImageDataModule, check_fraction, class_folders, decode, list_images
from .in_memory import Arrays, Split

# Per channel over ImageNet's training images, torchvision's convention for photographs.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SPLITS = ("train", "val", "test")


class ImageFolderDataModule(ImageDataModule):
    """Images of any size in class folders, scaled and cropped to squares.

    A root holds ``<class>/*``, split at random by the seed, or ``train/<class>/*`` with ``test``
    and perhaps ``val`` beside it; without ``val``, that is a seeded part of train. Classes of the
    same name in several roots are one class.

    Args:
        roots: Folders whose images are joined.
        image_size_px: Height and width after scaling and cropping at the centre.
        val_fraction: Share for validation where there is no ``val`` folder.
        test_fraction: Share for test where there are no ``train`` and ``test`` folders.
        cache_dir: Where decoded images are kept, ``.cache`` in the first root where not given.
        mean: Of each channel, in [0, 1] units.
        std: Of each channel, in [0, 1] units.
        kwargs: See ``ImageDataModule``.
    """

    def __init__(
        self,
        roots: Sequence[str],
        image_size_px: int = 64,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        cache_dir: str | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size_px=image_size_px, mean=mean, std=std, **kwargs)
        check_fraction("val_fraction", val_fraction)
        check_fraction("test_fraction", test_fraction)
        if val_fraction + test_fraction >= 1:
            raise ValueError(f"val_fraction: {val_fraction} with test_fraction leaves no training.")
        if not roots:
            raise ValueError("roots: empty. Give at least one folder.")
        self.roots = [Path(root) for root in roots]
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.cache_dir = Path(cache_dir) if cache_dir else self.roots[0] / ".cache"

    @property
    def num_classes(self) -> int:
        """Number of classes found in the roots."""
        return len(self._classes())

    @property
    def class_names(self) -> list[str]:
        return self._classes()

    def source(self, split: Split) -> str:
        if not self._has_split_folders():
            return "all"
        return "train" if split == "val" and not self._folders("val") else split

    def select(self, split: Split, num_rows: int) -> Tensor:
        source = self.source(split)
        if source == "all":
            return self.split_rows(num_rows, **self.fractions)[split]
        if split != "test" and self.source("val") == "train":
            return self.split_rows(num_rows, val=self.fractions["val"])[split]
        return torch.arange(num_rows)

    def prepare_data(self) -> None:
        super().prepare_data()
        for source in self.needed():
            self.read(source)

    def load(self, source: str) -> Arrays:
        classes = self._classes()
        files: list[Path] = []
        labels: list[int] = []
        for folder in self._folders(source):
            for class_folder in class_folders(folder):
                if class_folder.name not in classes:
                    raise ValueError(f"roots: {class_folder} is a class that train does not have.")
                images = list_images(class_folder)
                files += images
                labels += [classes.index(class_folder.name)] * len(images)
        return Arrays(decode(files, self.image_size_px, self.cache_dir), torch.tensor(labels))

    def _has_split_folders(self) -> bool:
        having = [r for r in self.roots if any((r / name).is_dir() for name in SPLITS)]
        if having and len(having) < len(self.roots):
            plain = next(root for root in self.roots if root not in having)
            raise ValueError(f"roots: {plain} has no train folder, but {having[0]} is split.")
        return bool(having)

    def _folders(self, source: str) -> list[Path]:
        if source == "all":
            return self.roots
        return [root / source for root in self.roots if (root / source).is_dir()]

    def _classes(self) -> list[str]:
        for root in self.roots:
            if not root.is_dir():
                raise FileNotFoundError(f"roots: {root} is no folder.")
        split = self._has_split_folders()
        for needed in ("train", "test") if split else ():
            if not self._folders(needed):
                raise FileNotFoundError(f"roots: {self.roots[0] / needed} is missing.")
        folders = self._folders("train" if split else "all")
        return sorted({c.name for folder in folders for c in class_folders(folder)})
