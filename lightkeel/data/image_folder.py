"""A person's own images, in one folder for each class."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import array_file, decoding
from .decoding import is_visible, say_passed_over
from .images import ImageDataModule
from .in_memory import Arrays, Split

# Per channel over ImageNet's training images, torchvision's convention for photographs.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageFolderDataModule(ImageDataModule):
    """Images of any size in class folders, scaled and cropped to squares.

    A root holds ``<class>/*``, split at random by the seed, or ``train/<class>/*`` with ``test``
    and perhaps ``val`` beside it; without ``val``, that is a seeded part of train. Folders within a
    class folder belong to its class. Classes of the same name in several roots are one class.

    A dataset with a name inherits from this class, with its folder as the only root. It says in
    class attributes what differs, and overrides what else its files need: ``find_classes`` (names
    without class folders), ``check_folders`` (a download), ``load`` (another form of the data, kept
    by ``load_cached``).

    Args:
        roots: Folders whose images are joined.
        image_size_px: Height and width after scaling and cropping at the centre.
        val_fraction: Share for validation where there is no ``val`` folder.
        test_fraction: Share for test where there are no ``train`` and ``test`` folders; null: there
            must be.
        cache_dir: Where decoded images are kept, three bytes a pixel; ``.cache`` in the first root
            where not given.
        mean: Of each channel, in [0, 1] units.
        std: Of each channel, in [0, 1] units.
        kwargs: See ``ImageDataModule``.

    Attributes:
        option: The option that names the roots, for messages.
        splits: Folders of a root that are read; others are passed over, which is said.
        resize: Whether images of other sizes are scaled, and not refused.
    """

    option = "roots"
    splits: tuple[str, ...] = ("train", "val", "test")
    resize = True

    def __init__(
        self,
        roots: Sequence[str],
        image_size_px: int = 64,
        val_fraction: float = 0.1,
        test_fraction: float | None = 0.1,
        cache_dir: str | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size_px=image_size_px, mean=mean, std=std, **kwargs)
        self.fractions = {"val": val_fraction, "test": test_fraction or 0.0}
        for name, fraction in {"val": val_fraction, "test": test_fraction}.items():
            if fraction is not None and not 0 < fraction < 1:
                raise ValueError(f"{name}_fraction: {fraction} is not in (0, 1).")
        if sum(self.fractions.values()) >= 1:
            raise ValueError(f"val_fraction: {val_fraction} with test_fraction leaves no training.")
        if not roots:
            raise ValueError("roots: empty. Give at least one folder.")
        self.roots: list[Path] = []
        for root in map(Path, roots):
            if root.resolve() in map(Path.resolve, self.roots):
                raise ValueError(f"roots: {root} is given twice.")
            self.roots.append(root)
        self.cache_dir = Path(cache_dir) if cache_dir else self.roots[0] / ".cache"

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def class_names(self) -> list[str]:
        return self.trained_classes or self.find_classes()

    def find_classes(self) -> list[str]:
        """Name the classes in the order of their numbers."""
        for root in self.roots:
            if not root.is_dir():
                raise FileNotFoundError(f"{self.option}: {root} is no folder.")
        split = self.is_split()
        for needed in ("train", "test") if split else ():
            if not self._folders(needed):
                raise FileNotFoundError(f"{self.option}: {self.roots[0] / needed} is missing.")
        folders = self._folders("train" if split else "all")
        return sorted({c.name for folder in folders for c in class_folders(folder)})

    def source(self, split: Split) -> str:
        if not self.is_split():
            return "all"
        return "train" if split == "val" and not self._folders("val") else split

    def select(self, split: Split, num_rows: int) -> Tensor:
        if self.source(split) == "all":
            return self.split_rows(num_rows, **self.fractions)[split]
        if split != "test" and self.source("val") == "train":
            return self.split_rows(num_rows, val=self.fractions["val"])[split]
        return torch.arange(num_rows)

    def prepare_data(self) -> None:
        super().prepare_data()
        self.check_folders()
        for source in self.needed():
            self.read(source)

    def check_folders(self) -> None:
        """Refuse wrong folders before training, those too that are not read then."""
        for source in self.splits if self.is_split() else ["all"]:
            self.class_folders(source)

    def is_split(self) -> bool:
        """Tell whether there are folders for splits, in each root or in none."""
        having = [r for r in self.roots if any((r / name).is_dir() for name in self.splits)]
        for root in self.roots if having else ():
            if root not in having:
                wrong = f"{root} has no train folder, but {having[0]} is split."
                raise ValueError(f"{self.option}: {wrong}")
        return bool(having) or not self.fractions["test"]

    def class_folders(self, source: str) -> list[Path]:
        """List the class folders of a source, each of a class that is known."""
        names = self.class_names
        folders = [part for folder in self._folders(source) for part in class_folders(folder)]
        for folder in folders:
            if folder.name not in names:
                raise ValueError(f"{self.option}: {folder} is a class that train does not have.")
        return folders

    def load(self, source: str) -> Arrays:
        if source == "train":
            beside = [p for r in self.roots for p in subfolders(r) if p.name not in self.splits]
            known = f"neither {', '.join(self.splits[:-1])} nor {self.splits[-1]}"
            say_passed_over(f"data.{self.option}", beside, known)
        files, labels = labelled(self.option, self.class_folders(source), self.class_names)
        images = decoding.decode(files, self.image_size_px, self.cache_dir, self.resize)
        return Arrays(images, labels)

    def load_cached(self, name: str, make: Callable[[], tuple[Any, Any]]) -> Arrays:
        """Map arrays kept in ``cache_dir`` under a name; where missing, make and keep them.

        ``make`` returns images (N, H, W, C) uint8 and targets (N,) of integers.
        """
        paths = [self.cache_dir / f"{name}-{part}.npy" for part in ("x", "y")]
        if all(path.exists() for path in paths):
            return Arrays(*map(array_file.load_array, paths))
        return Arrays(*map(array_file.cached, map(np.asarray, make()), paths))

    def _folders(self, source: str) -> list[Path]:
        if source == "all":
            return self.roots
        return [r / source for r in self.roots if source in self.splits and (r / source).is_dir()]


def subfolders(folder: Path) -> list[Path]:
    """List the folders directly in ``folder``, sorted by name."""
    return sorted(path for path in folder.iterdir() if is_visible(path.name) and path.is_dir())


def class_folders(folder: Path) -> list[Path]:
    """List the folders directly in ``folder``, sorted by name, one at least."""
    if found := subfolders(folder):
        return found
    raise ValueError(f"{folder} holds no class folders.")


def labelled(
    option: str, folders: Sequence[Path], names: Sequence[str]
) -> tuple[list[Path], Tensor]:
    """List the images of class folders with the numbers of their classes in ``names``, (N,)."""
    labels: dict[Path, int] = {}
    others: list[Path] = []
    for folder in folders:
        images, rest = decoding.find_images(folder)
        if not images:
            raise ValueError(f"{folder} holds no images ({', '.join(decoding.FORMATS)}).")
        labels |= dict.fromkeys(images, names.index(folder.name))
        others += rest
    beside = [path for parent in {f.parent: 0 for f in folders} for path in parent.iterdir()]
    stray = sorted(path for path in beside if is_visible(path.name) and not path.is_dir())
    say_passed_over(f"data.{option}", others, decoding.NO_IMAGE)
    say_passed_over(f"data.{option}", stray, "in no class folder")
    return list(labels), torch.tensor(list(labels.values()))
