"""CIFAR-10 (Krizhevsky 2009), from whichever form of it is at hand."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_md5

from lightkeel.data.images import (
    ImageDataModule,
    cached,
    check_fraction,
    check_names,
    class_folders,
    decode,
    find_file,
    labelled,
    load_array,
    say_passed_over,
    subfolders,
)
from lightkeel.data.in_memory import Arrays, Split

# Per channel over all pixels of the 50,000 training images, in [0, 1] units.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NUM_CLASSES = len(CLASSES)
FOLDERS = ("train", "test", CIFAR10.base_folder)


class CIFAR10DataModule(ImageDataModule):
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

    def __init__(
        self,
        data_dir: str = "data/cifar10",
        val_fraction: float = 0.1,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size_px=32, mean=CIFAR10_MEAN, std=CIFAR10_STD, **kwargs)
        check_fraction("val_fraction", val_fraction)
        self.val_fraction = val_fraction
        self.data_dir = Path(data_dir)
        self.cache_dir = Path(cache_dir) if cache_dir else self.data_dir / ".cache"

    @property
    def num_classes(self) -> int:
        """Ten, or as many as a trained model knows."""
        return len(self.trained_classes or CLASSES)

    @property
    def class_names(self) -> list[str]:
        if self.trained_classes:
            return self.trained_classes
        if self._has_class_folders():
            return [folder.name for folder in self._class_folders("train")]
        return CLASSES

    def source(self, split: Split) -> str:
        return "test" if split == "test" else "train"

    def select(self, split: Split, num_rows: int) -> Tensor:
        if split == "test":
            return torch.arange(num_rows)
        return self.split_rows(num_rows, val=self.val_fraction)[split]

    def prepare_data(self) -> None:
        super().prepare_data()
        if self._has_class_folders():
            for name in ("train", "test"):
                check_names("data_dir", self._class_folders(name), self.class_names)
        else:
            self._unpack()
        for source in self.needed():
            self.read(source)

    def load(self, source: str) -> Arrays:
        names = self.class_names
        if self._has_class_folders():
            beside = [p for p in subfolders(self.data_dir) if p.name not in FOLDERS]
            say_passed_over("data.data_dir", beside, "neither train nor test")
            files, labels = labelled("data_dir", self._class_folders(source), names)
            return Arrays(decode(files, 32, self.cache_dir, resize=False), labels)
        arrays = self._load_official(source)
        numbers = torch.tensor([names.index(name) for name in CLASSES])
        return arrays._replace(targets=numbers[arrays.targets])

    def _has_class_folders(self) -> bool:
        return (self.data_dir / "train").is_dir() or (self.data_dir / "test").is_dir()

    def _class_folders(self, source: str) -> list[Path]:
        folder = self.data_dir / source
        if not folder.is_dir():
            raise FileNotFoundError(f"data_dir: {folder} is missing beside the other split.")
        folders = class_folders(folder)
        if len(folders) != NUM_CLASSES and not self.trained_classes:
            raise ValueError(
                f"data_dir: {folder} holds {len(folders)} class folders, CIFAR-10 has "
                f"{NUM_CLASSES}. Use ImageFolderDataModule for other images."
            )
        return folders

    def _unpack(self) -> None:
        """Leave the official files in ``data_dir``, from the archive there or a download."""
        archive = self.data_dir / CIFAR10.filename
        if (self.data_dir / CIFAR10.base_folder).is_dir():
            return
        if archive.exists() and find_file(archive) and not check_md5(str(archive), CIFAR10.tgz_md5):
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

    def _load_official(self, source: str) -> Arrays:
        images, labels = (self.cache_dir / f"official-{source}-{n}.npy" for n in ("x", "y"))
        if not (images.exists() and labels.exists()):
            try:
                dataset = CIFAR10(str(self.data_dir), train=source == "train")
            except RuntimeError:
                raise ValueError(
                    f"data_dir: {self.data_dir / CIFAR10.base_folder} is incomplete or not the "
                    "official one (MD5). Remove it, then unpack or download it again."
                ) from None
            return Arrays(cached(dataset.data, images), cached(np.asarray(dataset.targets), labels))
        return Arrays(load_array(images), load_array(labels))
