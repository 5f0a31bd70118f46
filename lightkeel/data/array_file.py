"""Arrays in files: written whole, or in chunks that outlast a kill, and mapped into memory."""

import io
import math
import mmap
import os
import stat
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

Shape = tuple[int, ...]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
# Pages that are read and never written need no swap; without it, Linux maps no more than memory.
NORESERVE = 0x4000 if sys.platform == "linux" else 0
RECORD = struct.Struct("<I4s")  # of a chunk that is written: its CRC-32, and a mark
DONE = b"done"


class PartFile:
    """A ``.npy`` file in the making: chunks of rows, written in any order by threads or processes.

    Behind the array stands the journal, a record for each chunk. A chunk whose bytes have not the
    CRC-32 of its record, as after a kill or a loss of power, is missing. Where a file system has no
    locks, processes may write the same bytes at once: the first to finish names the file of all.

    Args:
        path: Where the file will be, named after what is in it; until then it ends in ``.part``.
        shape: Of the array (N, ...) of uint8.
        chunks: The rows of each chunk, in order; the last may have fewer than others.
    """

    def __init__(self, path: Path, shape: Shape, chunks: Sequence[range]) -> None:
        self.path, self.part, self.chunks = path, path.with_suffix(".part"), chunks
        header, layout = io.BytesIO(), {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, layout)
        self.header = header.getvalue()
        self.row_bytes = math.prod(shape[1:])
        self.end = len(self.header) + shape[0] * self.row_bytes

    def __enter__(self) -> "PartFile":
        self.descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT, 0o666)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and os.fstat(self.descriptor).st_size == 0:
            self.part.unlink(missing_ok=True)
        os.close(self.descriptor)

    def missing(self) -> list[range]:
        """List the chunks that are not written, or not as they were meant to be."""
        return [rows for rows in self.chunks if not self._is_whole(rows)]

    def write(self, rows: range, content: Bytes) -> None:
        """Write the chunk of these rows, then its record."""
        _write(self.descriptor, content.data, self._place(rows))
        record = RECORD.pack(zlib.crc32(content.data), DONE)
        _write(self.descriptor, record, self._record(rows))

    def finish(self) -> None:
        """Give the file its name; all chunks have been written."""
        _write(self.descriptor, self.header, 0)
        os.ftruncate(self.descriptor, self.end)
        os.fsync(self.descriptor)
        try:
            os.replace(self.part, self.path)
        except FileNotFoundError:
            if not self.path.exists():
                raise

    def _is_whole(self, rows: range) -> bool:
        record = os.pread(self.descriptor, RECORD.size, self._record(rows))
        if record[4:] != DONE:
            return False
        content = os.pread(self.descriptor, len(rows) * self.row_bytes, self._place(rows))
        return record == RECORD.pack(zlib.crc32(content), DONE)

    def _place(self, rows: range) -> int:
        return len(self.header) + rows.start * self.row_bytes

    def _record(self, rows: range) -> int:
        return self.end + rows.start // len(self.chunks[0]) * RECORD.size


def _write(descriptor: int, data: Any, place: int) -> None:
    """Write all of ``data``: a disk that is about to be full takes a part of it first."""
    rest = memoryview(data).cast("B")
    while rest:
        written = os.pwrite(descriptor, rest, place)
        rest, place = rest[written:], place + written


def cached(array: np.ndarray[Any, Any], path: Path) -> Tensor:
    """Save an array and map it, or warn and leave it in memory where it cannot be saved."""
    try:
        save_array(array, path)
    except OSError as error:
        warn_uncached(path.parent, error)
        return torch.from_numpy(array)
    return load_array(path)


def warn_uncached(folder: Path, error: OSError) -> None:
    """Warn that images stay in the memory of each process."""
    rank_zero_warn(
        f"The decoded images cannot be cached in {folder} ({error.strerror}), so they are "
        "decoded in every run and not shared by processes. Set data.cache_dir."
    )


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
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as file:
            flags, prot = mmap.MAP_PRIVATE | NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            pages = mmap.mmap(file.fileno(), 0, flags=flags, prot=prot)
        mapped = np.ndarray(array.shape, array.dtype, pages, array.offset, array.strides)
        return torch.from_numpy(mapped)
    except (ValueError, EOFError, TypeError, SyntaxError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Remove it: it is made anew.") from None


def find_file(file: Path) -> os.stat_result:
    """Look a file up, and refuse what is none: reading from a pipe or device might never end."""
    try:
        status = file.stat()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}). Remove it.") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{file} is no file. Remove it.")
    return status
