"""Datasets as their authors published them: downloaded, unpacked and read by torchvision."""

from pathlib import Path
from typing import Any

from torchvision.datasets.utils import check_md5

from .array_file import find_file


class OfficialFiles:
    """The official files of a dataset that torchvision knows as ``CIFAR10`` is known there.

    They are pickles, which could run code: what has not the official MD5 is not opened.

    Args:
        dataset: Class of torchvision, with ``base_folder``, ``filename`` and ``tgz_md5``.
        name: What it is called in messages.
        folder: Where the archive is, or is put, and unpacked.
        instead: What to do where there is no network, for messages.
    """

    def __init__(self, dataset: Any, name: str, folder: Path, instead: str) -> None:
        self.dataset, self.name, self.folder, self.instead = dataset, name, folder, instead

    def unpack(self) -> None:
        """Leave the files in ``folder``, from the archive there or a download."""
        archive, md5 = self.folder / self.dataset.filename, self.dataset.tgz_md5
        if (self.folder / self.dataset.base_folder).is_dir():
            return
        if archive.exists():
            find_file(archive)
            if not check_md5(archive, md5):
                raise ValueError(
                    f"data_dir: {archive} is incomplete or not the official archive (its MD5 is "
                    f"not {md5}). Remove it, then download it again."
                )
        try:
            self.dataset(str(self.folder), download=True)
        except (OSError, RuntimeError) as error:
            if archive.exists() and check_md5(archive, md5):
                raise  # not the download failed, but unpacking it
            archive.unlink(missing_ok=True)
            raise FileNotFoundError(
                f"data_dir: {self.folder} holds no {self.name}, and the download failed: {error}.\n"
                f"{self.instead}"
            ) from None

    def read(self, source: str) -> tuple[Any, Any]:
        """Read images (N, H, W, C) uint8 and the numbers of their classes (N,)."""
        try:
            dataset = self.dataset(str(self.folder), train=source == "train")
        except RuntimeError:
            raise ValueError(
                f"data_dir: {self.folder / self.dataset.base_folder} is incomplete or not the "
                "official one (MD5). Remove it, then unpack or download it again."
            ) from None
        return dataset.data, dataset.targets
