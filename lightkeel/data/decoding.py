"""Image files: found, decoded once into one array of bytes, and cached for other runs."""

import hashlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from PIL import Image, ImageOps, features
from torch import Tensor

from ..errors.checks import warn

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


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the images in a folder and the folders within, and all other visible files; sorted."""
    found: dict[bool, list[Path]] = {True: [], False: []}
    been: set[Path] = set()  # for links that lead in a circle

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}).") from None

    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(place).resolve()
        folders[:] = [] if real in been else filter(is_visible, folders)
        for path in () if real in been else (Path(place, n) for n in names if is_visible(n)):
            found[_holds_image(path)].append(path)
        been.add(real)
    return sorted(found[True]), sorted(found[False])


def _holds_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True  # or refused when it is read
    try:
        find_file(path)
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # noqa: BLE001 - Pillow raises whatever it runs into in a damaged file
        return False


def is_visible(name: str) -> bool:
    """Tell whether a file is neither hidden nor left behind by a system."""
    return not name.startswith(".") and name.lower() not in JUNK


@rank_zero_only
def say_passed_over(option: str, paths: Sequence[Path], reason: str) -> None:
    """Warn how many files are passed over, and name the first."""
    if paths:
        names = ", ".join("/".join(path.parts[-2:]) for path in paths[:MOST_NAMED])
        dots = ", ..." if len(paths) > MOST_NAMED else ""
        warn(f"{option}: passed over {len(paths)}, {reason}: {names}{dots}")


def decode(files: Sequence[Path], size_px: int, cache_dir: Path, resize: bool = True) -> Tensor:
    """Decode images into one array (N, H, W, 3) uint8, or map the one cached by an earlier call.

    The cache is keyed by path, size and modification time of every file.
    """
    key = hashlib.sha256(f"{CACHE_VERSION} {size_px} {resize}".encode())
    for file in files:
        status = find_file(file)
        key.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    path = cache_dir / f"{key.hexdigest()[:16]}.npy"
    if not path.exists():
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(lambda f: decode_one(f, size_px=size_px, resize=resize), files)
            return cached(np.stack(list(decoded)), path)
    images = load_array(path)
    if images.shape != (len(files), size_px, size_px, 3) or images.dtype != torch.uint8:
        raise ValueError(f"{path} is not the array that was saved there. Remove it.")
    return images


def decode_one(file: Path, size_px: int, resize: bool) -> np.ndarray[Any, Any]:
    """Decode an image, upright, scaled and cropped at the centre: (H, W, 3) uint8."""
    find_file(file)
    try:
        with Image.open(file, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            size, rgb = upright.size, eight_bits(upright).convert("RGB")
    except Exception as error:  # noqa: BLE001 - Pillow raises whatever it runs into
        reason = str(error).replace(f" {str(file)!r}", "")
        raise ValueError(f"{file} is not a readable image: {reason}. Mend or remove it.") from None
    if size == (size_px, size_px):
        return np.asarray(rgb)
    if not resize:
        found = f"{file} is {size[0]} x {size[1]} pixels, not {size_px} x {size_px}."
        raise ValueError(f"{found} Use ImageFolderDataModule for images of other sizes.")
    return np.asarray(ImageOps.fit(rgb, (size_px, size_px), Image.Resampling.BILINEAR))


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey of 16 bits to 8, which Pillow would cut off at white; refuse 32 bits."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image, np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel, and may have 8 or 16")
    return image


def find_file(file: Path) -> os.stat_result:
    """Look a file up, and refuse what is none: reading from a pipe or device might never end."""
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
    finally:
        part.unlink(missing_ok=True)


def load_array(path: Path) -> Tensor:
    """Map an array into memory: read when touched, shared by processes, never written back."""
    find_file(path)
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (ValueError, EOFError, TypeError, SyntaxError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Remove it: it is made anew.") from None
