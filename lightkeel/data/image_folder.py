"""A person's own images, in one folder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .images import (
    ImageDataModule,
    check_fraction,
    check_names,
    class_folders,
    decode,
    labelled,
    say_passed_over,
    subfolders,
)
from .in_memory import Arrays, Split

# Per channel over ImageNet's training images, torchvision's convention for photographs.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SPLITS = ("train", "val", "test")


class ImageFolderDataModule(ImageDataModule):
    """Images of any size in class folders, scaled and cropped to squares.

    A root holds ``<class>/*``, split at random by the seed, or ``train/<class>/*`` with ``test``
    and perhaps ``val`` beside it; without ``val``, that is a seeded part of train. Folders within a
    class folder belong to its class. Classes of the same name in several roots are one class.

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
        places = [root.resolve() for root in self.roots]
        for number, place in enumerate(places):
            if place in places[:number]:
                raise ValueError(f"roots: {self.roots[number]} is given twice.")
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.cache_dir = Path(cache_dir) if cache_dir else self.roots[0] / ".cache"

    @property
    def num_classes(self) -> int:
        """Number of classes found in the roots."""
        return len(self.class_names)

    @property
    def class_names(self) -> list[str]:
        return self.trained_classes or self._classes()

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
        for source in SPLITS:
            self._class_folders(source)  # not only those that are read: found before training
        for source in self.needed():
            self.read(source)

    def load(self, source: str) -> Arrays:
        if source == "train":
            beside = [p for r in self.roots for p in subfolders(r) if p.name not in SPLITS]
            say_passed_over("data.roots", beside, "neither train, val nor test")
        files, labels = labelled("roots", self._class_folders(source), self.class_names)
        return Arrays(decode(files, self.image_size_px, self.cache_dir), labels)

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

    def _class_folders(self, source: str) -> list[Path]:
        names = self.class_names
        folders = [part for folder in self._folders(source) for part in class_folders(folder)]
        check_names("roots", folders, names)
        return folders

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
