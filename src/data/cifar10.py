"""CIFAR-10 (Krizhevsky 2009), from whichever form of it is at hand."""

from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_md5

from lightkeel import Arrays, ImageFolderDataModule

# Per channel over all pixels of the 50,000 training images, in [0, 1] units.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


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
        self.data_dir = Path(data_dir)

    def find_classes(self) -> list[str]:
        return super().find_classes() if self._has_class_folders() else CLASSES

    def class_folders(self, source: str) -> list[Path]:
        folders = super().class_folders(source)
        if len(folders) != len(CLASSES) and not self.trained_classes:
            raise ValueError(
                f"data_dir: {self.data_dir / source} holds {len(folders)} class folders, CIFAR-10 "
                f"has {len(CLASSES)}. Use ImageFolderDataModule for other images."
            )
        return folders

    def check_folders(self) -> None:
        if self._has_class_folders():
            super().check_folders()
        elif not (self.data_dir / CIFAR10.base_folder).is_dir():
            self._unpack()

    def load(self, source: str) -> Arrays:
        if self._has_class_folders():
            return super().load(source)
        arrays = self.load_cached(f"official-{source}", lambda: self._read_official(source))
        numbers = torch.tensor([self.class_names.index(name) for name in CLASSES])
        return arrays._replace(targets=numbers[arrays.targets])

    def _has_class_folders(self) -> bool:
        return any((self.data_dir / split).is_dir() for split in self.splits)

    def _unpack(self) -> None:
        """Leave the official files in ``data_dir``, from the archive there or a download."""
        archive = self.data_dir / CIFAR10.filename
        if archive.exists() and not archive.is_file():  # of a pipe, reading might never end
            raise ValueError(f"{archive} is no file. Remove it.")
        if archive.exists() and not check_md5(str(archive), CIFAR10.tgz_md5):
            raise ValueError(
                f"data_dir: {archive} is incomplete or not the official archive (its MD5 is not "
                f"{CIFAR10.tgz_md5}). Remove it, then download it again."
            )
        try:
            CIFAR10(str(self.data_dir), download=True)
        except (OSError, RuntimeError) as error:
            if archive.exists() and check_md5(str(archive), CIFAR10.tgz_md5):
                raise  # not the download failed, but unpacking it
            archive.unlink(missing_ok=True)
            raise FileNotFoundError(
                f"data_dir: {self.data_dir} holds no CIFAR-10, and the download failed: {error}.\n"
                f"Put {CIFAR10.filename} or class folders train/<class>/ and test/<class>/ there, "
                "or train offline with --config cifar10_synthetic."
            ) from None

    def _read_official(self, source: str) -> tuple[Any, Any]:
        try:
            dataset = CIFAR10(str(self.data_dir), train=source == "train")
        except RuntimeError:
            raise ValueError(
                f"data_dir: {self.data_dir / CIFAR10.base_folder} is incomplete or not the "
                "official one (MD5). Remove it, then unpack or download it again."
            ) from None
        return dataset.data, dataset.targets
