"""Image files: found, decoded once into one array of bytes, and cached for other runs."""

import errno
import hashlib
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image, ImageOps, features
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor
from torch.nn import functional as F

from ..errors.checks import warn
from ..runs.lock import alone
from .array_file import Bytes, PartFile, Shape, find_file, load_array, warn_uncached

FORMATS = ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM"]  # by content: EPS is a program
# Files of these need not be opened to see that they are images.
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
if "avif" in features.modules and features.check("avif"):  # Pillow 11.3 and later, on most systems
    FORMATS, SUFFIXES = [*FORMATS, "AVIF"], {*SUFFIXES, ".avif"}
JUNK = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}  # which systems leave in folders
MOST_NAMED = 3  # of the files that are passed over
NO_IMAGE = "not readable as images"
CACHE_VERSIONS = {False: 3, True: 4}  # by `resize`: raised when the pixels of a file change
CHUNK_BYTES = 4 * 2**20  # in each thread, and torn by a kill: decoded again
CHUNKS_AT_LEAST = 64
# Decoded in seconds: not said before, not kept after an error, and in memory without a disk.
SMALL_BYTES = 2**28
LINE_INTERVAL_S = 5.0


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
    """Decode images into a file and map it, or map that of an earlier call: (N, H, W, 3) uint8.

    The file is keyed by path, size and modification time of every image. One process decodes, in
    threads, and others wait; when it is killed, what is decoded stays. Memory does not grow with
    the number of images.

    Raises:
        ValueError: An image cannot be read; or ``cache_dir`` has no room, and there are too many
            to hold them in memory.
    """
    key = hashlib.sha256(f"{CACHE_VERSIONS[resize]} {size_px} {resize}".encode())
    for file in files:
        status = find_file(file)
        key.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    path, shape = cache_dir / f"{key.hexdigest()[:16]}.npy", (len(files), size_px, size_px, 3)

    def decoded(rows: range) -> Bytes:
        content = np.empty((len(rows), *shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            content[place] = decode_one(files[row], size_px, resize)
        return content

    try:
        if not path.exists():
            _decode_to(path, shape, decoded)
    except OSError as error:  # of the file; those of images are no OSError
        return _in_memory(error, cache_dir, shape, decoded)
    images = load_array(path)
    if images.shape != shape or images.dtype != torch.uint8:
        raise ValueError(f"{path} is not the array that was saved there. Remove it.")
    return images


def _decode_to(path: Path, shape: Shape, decoded: Callable[[range], Bytes]) -> None:
    """Decode what is missing of a file, unless another process does, and give it its name."""
    folder, was_there = path.parent, path.parent.exists()
    with alone(folder, f"waiting for another process to decode images in {folder}"):
        if path.exists():
            return
        try:
            with PartFile(path, shape, _chunks(shape)) as file:
                missing = file.missing()
                _check_room(folder, shape, sum(map(len, missing)))
                _in_threads(lambda rows: file.write(rows, decoded(rows)), missing, shape[0])
                file.finish()
        except Exception:
            if math.prod(shape) <= SMALL_BYTES:
                path.with_suffix(".part").unlink(missing_ok=True)
            raise
        finally:
            if not was_there and not any(folder.iterdir()):
                folder.rmdir()


def _check_room(folder: Path, shape: Shape, missing: int) -> None:
    """Say how much of the disk is needed, where it is much; raise ``OSError`` if there is less."""
    needed, free = missing * math.prod(shape[1:]), shutil.disk_usage(folder).free
    if needed > SMALL_BYTES:
        room = f"{needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free"
        print(f"decoding {missing} of {shape[0]} images: {room}", file=sys.stderr, flush=True)
    if needed > free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _in_memory(
    error: OSError, folder: Path, shape: Shape, decoded: Callable[[range], Bytes]
) -> Tensor:
    """Decode into memory what cannot be written, or refuse to where that is much."""
    if math.prod(shape) > SMALL_BYTES:
        needed = f"{shape[0]} images of {shape[1]} px need {math.prod(shape) / 1e9:.1f} GB"
        raise ValueError(
            f"cache_dir: {folder} cannot be written ({error.strerror}), and {needed}.\n"
            "Make room, or set data.cache_dir to another disk, or a smaller data.image_size_px."
        ) from None
    warn_uncached(folder, error)
    images = np.empty(shape, np.uint8)

    def fill(rows: range) -> None:
        images[rows.start : rows.stop] = decoded(rows)

    _in_threads(fill, _chunks(shape), shape[0])
    return torch.from_numpy(images)


def _chunks(shape: Shape) -> list[range]:
    """Split rows into chunks, small beside memory, and enough of them for all threads."""
    num_rows = min(CHUNK_BYTES // math.prod(shape[1:]), shape[0] // CHUNKS_AT_LEAST)
    starts = range(0, shape[0], max(1, num_rows))
    return [range(start, min(start + starts.step, shape[0])) for start in starts]


def _in_threads(work: Callable[[range], None], chunks: Sequence[range], num_rows: int) -> None:
    """Work on chunks of rows in threads, and show how far it is; raise what the first raises."""
    pool = ThreadPoolExecutor()
    futures = {pool.submit(work, rows): rows for rows in chunks}
    bar = Progress(
        *(TextColumn("decoding images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    done, next_line = num_rows - sum(map(len, chunks)), time.monotonic() + LINE_INTERVAL_S
    try:
        with bar:
            task = bar.add_task("", total=num_rows, completed=done)
            for future in as_completed(futures):
                if future.exception():
                    break
                done += len(futures[future])
                bar.update(task, completed=done)
                if bar.disable and time.monotonic() > next_line:
                    next_line = time.monotonic() + LINE_INTERVAL_S
                    print(f"decoding images  {done}/{num_rows}", file=sys.stderr, flush=True)
    finally:
        pool.shutdown(cancel_futures=True)  # chunks at work are finished, and stay
    for future in futures:
        if not future.cancelled():
            future.result()


def decode_one(file: Path, size_px: int, resize: bool) -> Bytes:
    """Decode an image, upright, cropped at the centre and scaled: (H, W, 3) uint8.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, as long as that is at
    least twice ``size_px``: up to three times as fast, the square in place to a quarter of a pixel.
    """
    find_file(file)
    try:
        with Image.open(file, formats=FORMATS) as image:
            upright = _reduced(image, 2 * size_px) if resize else image
            ImageOps.exif_transpose(upright, in_place=True)
            size, rgb = upright.size, eight_bits(upright)
            rgb = rgb if rgb.mode == "RGB" else rgb.convert("RGB")  # which copies all the same
            rgb.load()
    except Exception as error:  # noqa: BLE001 - Pillow raises whatever it runs into
        reason = str(error).replace(f" {str(file)!r}", "")
        raise ValueError(f"{file} is not a readable image: {reason}. Mend or remove it.") from None
    if size == (size_px, size_px):
        return np.array(rgb)
    if not resize:
        found = f"{file} is {size[0]} x {size[1]} pixels, not {size_px} x {size_px}."
        raise ValueError(f"{found} Use ImageFolderDataModule for images of other sizes.")
    side, (left, top) = min(size), ((length - min(size)) // 2 for length in size)
    square = torch.from_numpy(np.array(rgb.crop((left, top, left + side, top + side))))
    # In integers, so the same everywhere; three times as fast as Pillow's.
    pixels = square.permute(2, 0, 1)[None]
    scaled = F.interpolate(pixels, (size_px, size_px), mode="bilinear", antialias=True)
    return scaled[0].permute(1, 2, 0).numpy()


def _reduced(image: Image.Image, least_px: int) -> Image.Image:
    """Open a JPEG at the part of its size that is at least ``least_px``, and crop its centre."""
    full, side = image.size, min(image.size)
    image.draft(None, (least_px, least_px))
    scale = round(full[0] / image.width)
    if scale == 1:
        return image
    left, top = (round((length - side) / 2 / scale) for length in full)
    return image.crop((left, top, left + side // scale, top + side // scale))


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey of 16 bits to 8, which Pillow would cut off at white; refuse 32 bits."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image, np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel, and may have 8 or 16")
    return image
