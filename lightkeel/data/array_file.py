"""Arrays in files: written whole, or in chunks that outlast a kill, and mapped into memory."""

import io
import math
import mmap
import os
import stat
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
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
    CRC-32 of its record, as after a kill or a loss of power, is missing. The same bytes may be
    written twice, also at once: where a file system has no locks, processes do.

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

    def missing(self) -> list[range]:
        """List the chunks that are not written, or not as they were meant to be."""
        return [rows for rows, whole in zip(self.chunks, self._whole(), strict=True) if not whole]

    def write(self, rows: range, content: Bytes) -> None:
        """Write the chunk of these rows, then its record."""
        record = RECORD.pack(zlib.crc32(content.data), DONE)
        self.part.touch()
        with self.part.open("r+b", buffering=0) as file:
            for place, data in ((self._place(rows), content.data), (self._record(rows), record)):
                file.seek(place)
                _write(file, data)

    def finish(self) -> None:
        """Give the file its name; all chunks have been written."""
        with self.part.open("r+b", buffering=0) as file:
            _write(file, self.header)
            file.truncate(self.end)
            os.fsync(file.fileno())
        os.replace(self.part, self.path)

    def _whole(self) -> Iterator[bool]:
        if not self.part.exists():
            yield from (False for _ in self.chunks)
            return
        with self.part.open("rb") as file:
            for rows in self.chunks:
                file.seek(self._record(rows))
                record = file.read(RECORD.size)
                if record[4:] != DONE:
                    yield False
                    continue
                file.seek(self._place(rows))
                content = file.read(len(rows) * self.row_bytes)
                yield record == RECORD.pack(zlib.crc32(content), DONE)

    def _place(self, rows: range) -> int:
        return len(self.header) + rows.start * self.row_bytes

    def _record(self, rows: range) -> int:
        return self.end + rows.start // len(self.chunks[0]) * RECORD.size


def _write(file: io.FileIO, data: Any) -> None:
    """Write all of ``data``: a disk that is about to be full takes a part of it first."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


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
