"""Images as bytes in one array: decoded once, cached, normalized and augmented on the device."""

import hashlib
import importlib
import inspect
import os
import stat
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from PIL import Image, ImageOps, features
from torch import Tensor, nn

from ..errors.checks import at_least, suggest, warn
from ..project import current
from . import philox
from .in_memory import InMemoryDataModule, Split

FORMATS = ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM"]  # by content: EPS is a program
# Files of these need not be opened to see that they are images.
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
if "avif" in features.modules and features.check("avif"):  # Pillow 11.3 and later, on most systems
    FORMATS, SUFFIXES = [*FORMATS, "AVIF"], {*SUFFIXES, ".avif"}
JUNK = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}  # which systems leave in folders
MOST_NAMED = 3  # of the files that are passed over
NO_IMAGE = "not readable as images"
CACHE_VERSION = 3  # raise it when the pixels decoded from the same files change
# What Pillow raises for files that are damaged, or made to do damage.
BROKEN: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, NotImplementedError, MemoryError, struct.error, zlib.error),
    Image.DecompressionBombError,
)
Augmentation = Callable[[Tensor, Tensor], Tensor]


class Normalize(nn.Module):
    """Bring pixels about zero: (B, H, W, C) uint8 -> (B, C, H, W) float32.

    Args:
        mean: Of each channel, in [0, 1] units.
        std: Of each channel, in [0, 1] units.
    """

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
            raise ValueError(
                f"std: {list(std)} must be positive, one or three, and as many as in mean."
            )
        self.image_size_px = image_size_px
        self._normalize = Normalize(mean, std)
        self._augmentations = find_augmentations(augment or {}, image_size_px)
        self._draws: dict[str, Tensor] = {}
        self._draws_of: tuple[int, torch.device] | None = None

    def transform(self, inputs: Tensor, rows: Tensor, split: Split) -> Tensor:
        """Augment (training only) and normalize: (B, H, W, C) uint8 -> (B, C, H, W) float32."""
        if inputs.dtype != torch.uint8:
            return inputs.permute(0, 3, 1, 2)
        if split == "train" and self._augmentations:
            draws = self._epoch_draws(inputs.device)
            for name, augmentation in self._augmentations.items():
                inputs = augmentation(inputs, draws[name][rows])
        normalized: Tensor = self._normalize_on(inputs.device)(inputs)
        return normalized

    def preprocessing(self) -> nn.Module:
        return deepcopy(self._normalize).cpu()

    def read_image(self, file: Path) -> Tensor:
        """Read an image of any size as a sample: scaled and cropped to (H, W, 3) uint8.

        Raises:
            ValueError: It is no readable image.
        """
        find_file(file)
        return torch.from_numpy(_decode_one(file, self.image_size_px, resize=True).copy())

    def find_images(self, folder: Path) -> list[Path]:
        """List the images in a folder and the folders within, sorted, and say what is none."""
        images, others = find_images(folder)
        say_passed_over(f"INPUT {folder}", others, NO_IMAGE)
        return images

    def pixels(self, inputs: Tensor) -> Tensor:
        """Bring back pixels from inputs of the model: (B, C, H, W) -> (B, H, W, C) uint8."""
        return self._normalize_on(inputs.device).inverse(inputs)

    def training_images(self, most: int) -> Tensor:
        """Return the first ``most`` training images, normalized: (N, C, H, W) float32."""
        dataset = self.datasets["train"]
        rows = dataset.rows[:most]
        return self.transform(dataset.arrays.inputs[rows], rows, "val")

    def _normalize_on(self, device: torch.device) -> Normalize:
        if self._normalize.scale.device != device:
            self._normalize.to(device)
        return self._normalize

    def _epoch_draws(self, device: torch.device) -> dict[str, Tensor]:
        """Random numbers for all rows of the epoch, drawn once: in a batch it is one gather."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        if self._draws_of != (epoch, device):
            num_rows = len(self.datasets["train"].arrays.targets)
            self._draws = {
                name: draw(num_rows, self.seed, epoch, name).to(device)
                for name in self._augmentations
            }
            self._draws_of = (epoch, device)
        return self._draws


def draw(num_rows: int, seed: int, epoch: int, name: str) -> Tensor:
    """Draw the random numbers of an augmentation for each row: (N, 4) in [0, 1).

    Where the name begins with ``alternating``, epochs take turns between draws and their mirror
    images 1 - draw: what happens to a sample in one of them does not happen in the next.
    """
    if not name.startswith("alternating"):
        return philox.uniform(num_rows, seed, epoch, name)
    draws = philox.uniform(num_rows, seed, 0, name)
    return (1 - draws).clamp(max=1 - 2**-24) if epoch % 2 else draws


def project_augmentations() -> Any:
    """Import the module of the project whose functions augment images."""
    return importlib.import_module(f"{current().package}.data.augment")


def find_augmentations(
    settings: Mapping[str, Mapping[str, Any] | None], size_px: int
) -> dict[str, Augmentation]:
    """Look up augmentations by name, bind their settings, and try them on an image of the size.

    Raises:
        ValueError: There is no such function, or it has no such setting.
    """
    choices = {
        name: function
        for name, function in vars(project_augmentations()).items()
        if inspect.isfunction(function) and not name.startswith("_")
    }
    found: dict[str, Augmentation] = {}
    for name, options in settings.items():
        if name not in choices:
            raise ValueError(f"augment.{name}: no such augmentation. {suggest(name, choices)}")
        function = choices[name]
        accepted = list(inspect.signature(function).parameters)[2:]
        for option in options or {}:
            if option not in accepted:
                hint = suggest(option, accepted)
                raise ValueError(f"augment.{name}.{option}: {name} has no such option. {hint}")
        found[name] = partial(function, **(options or {}))
        try:
            found[name](torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8), torch.zeros(1, 4))
        except ValueError as error:
            raise ValueError(f"augment.{name}.{error}") from None
        except (TypeError, IndexError, RuntimeError) as error:
            raise ValueError(f"augment.{name}: {options} does not fit: {error}.") from None
    return found


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the images in a folder and the folders within, and all other files; sorted.

    Hidden files and folders are in neither, nor what systems leave behind.

    Raises:
        ValueError: A folder cannot be read.
    """
    images: list[Path] = []
    others: list[Path] = []
    been: set[Path] = set()  # for links that lead in a circle

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}).") from None

    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (real := Path(place).resolve()) in been:
            folders.clear()
            continue
        been.add(real)
        folders[:] = filter(is_visible, folders)
        for path in (Path(place, name) for name in names if is_visible(name)):
            (images if holds_image(path) else others).append(path)
    return sorted(images), sorted(others)


def holds_image(path: Path) -> bool:
    """Tell whether a file is an image by its suffix or, with any other suffix, by its content."""
    if path.suffix.lower() in SUFFIXES:
        return True  # or refused when it is read
    try:
        if not path.is_file():  # reading from a pipe might never end
            return False
        with Image.open(path, formats=FORMATS):
            return True
    except BROKEN:
        return False


def is_visible(name: str) -> bool:
    """Tell whether a file or folder is meant by whoever names the folder that it is in."""
    return not name.startswith(".") and name.lower() not in JUNK


def subfolders(folder: Path) -> list[Path]:
    """List the folders directly in ``folder``, sorted by name."""
    return sorted(path for path in folder.iterdir() if is_visible(path.name) and path.is_dir())


@rank_zero_only
def say_passed_over(option: str, paths: Sequence[Path], reason: str) -> None:
    """Count what is passed over and name the first, in one line on standard error."""
    if paths:
        names = ", ".join("/".join(path.parts[-2:]) for path in paths[:MOST_NAMED])
        dots = ", ..." if len(paths) > MOST_NAMED else ""
        warn(f"{option}: passed over {len(paths)}, {reason}: {names}{dots}")


def class_folders(folder: Path) -> list[Path]:
    """List the class folders in ``folder``, sorted by name.

    Raises:
        ValueError: There is none.
    """
    found = subfolders(folder)
    if not found:
        raise ValueError(f"{folder} holds no class folders.")
    return found


def check_names(option: str, folders: Sequence[Path], names: Sequence[str]) -> None:
    """Raise ``ValueError`` for a class folder whose name is none of ``names``."""
    for folder in folders:
        if folder.name not in names:
            raise ValueError(f"{option}: {folder} is a class that train does not have.")


def check_fraction(name: str, fraction: float) -> None:
    """Raise ``ValueError`` unless ``fraction`` of a set can be split off it."""
    if not 0 < fraction < 1:
        raise ValueError(f"{name}: {fraction} is not in (0, 1).")


def decode(files: Sequence[Path], size_px: int, cache_dir: Path, resize: bool = True) -> Tensor:
    """Decode images into one array, or map the one that an earlier call has cached.

    The cache is keyed by path, size and modification time of every file, so a changed file is seen.
    Processes that map it share its memory.

    Args:
        files: Image files, in the order wanted.
        size_px: Height and width to scale and crop to.
        cache_dir: Where the array is kept; made where missing.
        resize: Whether other sizes are allowed.

    Returns:
        (N, H, W, 3) uint8, backed by a file where ``cache_dir`` can be written.

    Raises:
        ValueError: A file is no readable image, or has another size and ``resize`` is false.
    """
    key = hashlib.sha256(f"{CACHE_VERSION} {size_px} {resize}".encode())
    for file in files:
        status = find_file(file)
        key.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    path = cache_dir / f"{key.hexdigest()[:16]}.npy"
    if not path.exists():
        read = partial(_decode_one, size_px=size_px, resize=resize)
        with ThreadPoolExecutor() as pool:
            array = np.stack(list(pool.map(read, files)))
        return cached(array, path)
    images = load_array(path)
    if images.shape != (len(files), size_px, size_px, 3) or images.dtype != torch.uint8:
        raise ValueError(f"{path} is not the array that was saved there. Remove it.")
    return images


def find_file(file: Path) -> os.stat_result:
    """Look a file up; reading from anything else might never end.

    Raises:
        ValueError: It is no file, be it a folder, a pipe, a device or a link to nothing.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}). Remove it.") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{file} is no file. Remove it.")
    return status


def cached(array: np.ndarray[Any, Any], path: Path) -> Tensor:
    """Save an array and map it, or warn and leave it in memory where it cannot be saved."""
    try:
        save_array(array, path)
    except OSError as error:
        rank_zero_warn(
            f"The decoded images cannot be cached in {path.parent} ({error.strerror}), so they are "
            "decoded in every run and not shared by processes. Set data.cache_dir."
        )
        return torch.from_numpy(array)
    return load_array(path)


def save_array(array: np.ndarray[Any, Any], path: Path) -> None:
    """Write an array so that ``path`` holds all of it or does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{uuid4().hex}.part")  # no tempfile: others may not read those
    try:
        with part.open("wb") as file:
            np.save(file, array)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def load_array(path: Path) -> Tensor:
    """Map an array into memory: read when touched, shared by processes, never written back.

    Raises:
        ValueError: The file is damaged.
    """
    find_file(path)
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (ValueError, EOFError, TypeError, SyntaxError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Remove it: it is made anew.") from None


def _decode_one(file: Path, size_px: int, resize: bool) -> np.ndarray[Any, Any]:
    try:
        with Image.open(file, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            size, rgb = upright.size, eight_bits(upright).convert("RGB")
    except BROKEN as error:
        reason = str(error).replace(f" {str(file)!r}", "")
        raise ValueError(f"{file} is not a readable image: {reason}. Mend or remove it.") from None
    if size != (size_px, size_px):
        if not resize:
            raise ValueError(
                f"{file} is {size[0]} x {size[1]} pixels, not {size_px} x {size_px}. "
                "Use ImageFolderDataModule for images of other sizes."
            )
        rgb = ImageOps.fit(rgb, (size_px, size_px), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey of 16 bits to 8, which Pillow would cut off at white.

    Raises:
        ValueError: It has 32 bits, whose range is not known.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image, np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel, and may have 8 or 16")
    return image


def labelled(
    option: str, folders: Sequence[Path], names: Sequence[str]
) -> tuple[list[Path], Tensor]:
    """List the images of class folders with the numbers of their classes, (N,) int64.

    Args:
        option: Whose value the folders are in, for messages.
        folders: One for each class that there is; of several with one name, each.
        names: Of all classes, in the order of their numbers.

    Raises:
        ValueError: A folder holds no images.
    """
    files: list[Path] = []
    labels: list[int] = []
    others: list[Path] = []
    for folder in folders:
        images, rest = find_images(folder)
        if not images:
            raise ValueError(f"{folder} holds no images ({', '.join(FORMATS)}).")
        files += images
        labels += [names.index(folder.name)] * len(images)
        others += rest
    parents = dict.fromkeys(folder.parent for folder in folders)
    beside = [path for parent in parents for path in parent.iterdir() if is_visible(path.name)]
    stray = sorted(path for path in beside if not path.is_dir())
    say_passed_over(f"data.{option}", others, NO_IMAGE)
    say_passed_over(f"data.{option}", stray, "in no class folder")
    return files, torch.tensor(labels)
