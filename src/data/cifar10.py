"""CIFAR-10 (Krizhevsky 2009), from whichever form of it is at hand."""

from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import CIFAR10

from lightkeel import Arrays, ImageFolderDataModule, OfficialFiles

# Per channel over all pixels of the 50,000 training images, in [0, 1] units.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
INSTEAD = (
    "Put cifar-10-python.tar.gz or class folders train/<class>/ and test/<class>/ there, or train "
    "offline with --config cifar10_synthetic."
)


class CIFAR10DataModule(ImageFolderDataModule):
    """60,000 photographs of ten kinds of things, 32 x 32 pixels, in their official splits.

    Taken is what ``data_dir`` holds: class folders ``train/<class>/*`` and ``test/<class>/*``, or
    the official ``cifar-10-batches-py``, or its archive ``cifar-10-python.tar.gz``; failing these,
    the archive is downloaded. Validation is a seeded part of the training images.

    Args:
        data_dir: Folder of the dataset.
        val_fraction: Share of the training images used for validation alone.
        cache_dir: Where decoded images are kept, ``.cache`` in ``data_dir`` where not given.
        kwargs: See ``ImageDataModule``.
    """

    option, splits, resize = "data_dir", ("train", "test"), False

    def __init__(
        self,
        data_dir: str = "data/cifar10",
        val_fraction: float = 0.1,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            roots=[data_dir],
            image_size_px=32,
            val_fraction=val_fraction,
            test_fraction=None,
            cache_dir=cache_dir,
            mean=CIFAR10_MEAN,
            std=CIFAR10_STD,
            **kwargs,
        )
        self.official = OfficialFiles(CIFAR10, "CIFAR-10", self.roots[0], INSTEAD)

    def find_classes(self) -> list[str]:
        return super().find_classes() if self.has_class_folders() else CLASSES

    def class_folders(self, source: str) -> list[Path]:
        folders = super().class_folders(source)
        if len(folders) != len(CLASSES) and not self.trained_classes:
            raise ValueError(
                f"data_dir: {self.roots[0] / source} holds {len(folders)} class folders, CIFAR-10 "
                f"has {len(CLASSES)}. Use ImageFolderDataModule for other images."
            )
        return folders

    def check_folders(self) -> None:
        if self.has_class_folders():
            super().check_folders()
        else:
            self.official.unpack()

    def load(self, source: str) -> Arrays:
        if self.has_class_folders():
            return super().load(source)
        arrays = self.load_cached(f"official-{source}", lambda: self.official.read(source))
        numbers = torch.tensor([self.class_names.index(name) for name in CLASSES])
        return arrays._replace(targets=numbers[arrays.targets])

    def has_class_folders(self) -> bool:
        """Tell whether images are there as files, and not as the official arrays."""
        return any((self.roots[0] / split).is_dir() for split in self.splits)
