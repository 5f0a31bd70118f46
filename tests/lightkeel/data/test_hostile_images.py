"""Images and archives made to do damage, or spoilt: refused in three lines, without doing any."""

import io
import os
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10, utils as downloads

from lightkeel.data import decoding
from src import train
from tests.lightkeel.commands import experiment, fails
from tests.lightkeel.conftest import TINY
from tests.lightkeel.data.pictures import needs_cifar10, save_image
from tests.lightkeel.fuzzing import check_files, damaged, few_and_many, fuzz, outcome

SIZE_PX = 16
SMALL = [
    *TINY,
    *("--model", "SimpleCNN", "--model.channels", "[2]", "--model.num_classes", "2"),
    *("--model.image_size_px", str(SIZE_PX), "--data", "ImageFolderDataModule"),
    *("--data.image_size_px", str(SIZE_PX), "--data.batch_size", "2", "--model.optimizer"),
    *("{name: SGD, lr: 0.1}", "--model.lr_scheduler", "null", "--trainer.max_epochs", "1"),
]


def make_folder(folder: Path) -> Path:
    """Make two classes of five images each; return one image of them."""
    for label in ("cat", "dog"):
        for number in range(5):
            save_image(folder / label / f"{number}.png", 20 * number, (SIZE_PX, SIZE_PX))
    return folder / "cat/3.png"


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG whose header says a size that its data, an image of one pixel, has not."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0\0\0\0")), (b"IEND", b"")]
    for name, data in parts:
        check = struct.pack(">I", zlib.crc32(name + data))
        content += struct.pack(">I", len(data)) + name + data + check
    return content


def tiff(size: int) -> bytes:
    entries = [(256, size), (257, size), (258, 8), (259, 1), (262, 1), (273, 8), (279, 1)]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + b"\0\0\0\0"


# A program, not pixels: where Ghostscript is installed, Pillow would run it.
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
COMMENT = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))  # 97 KB
NO_IMAGE = "is not a readable image: "


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


SPOILT = [
    (write(b"a text"), f"{NO_IMAGE}cannot identify image file. Mend or remove it."),
    (write(b""), f"{NO_IMAGE}cannot identify image file. Mend or remove it."),
    (write(EPS), f"{NO_IMAGE}cannot identify image file. Mend or remove it."),
    (lambda path: path.write_bytes(path.read_bytes()[:60]), NO_IMAGE),
    (write(png(100_000, 100_000)), f"{NO_IMAGE}Image size (10000000000 pixels) exceeds limit"),
    (write(tiff(100_000)), f"{NO_IMAGE}Image size (10000000000 pixels) exceeds limit"),
    (write(b"P6 100000 100000 255\n"), f"{NO_IMAGE}Image size (10000000000 pixels) exceeds"),
    (write(png(16, 16)), NO_IMAGE),
    (write(png(0, 16)), NO_IMAGE),
    (write(png(16, 16, COMMENT)), f"{NO_IMAGE}Decompressed data too large for PngImagePlugin"),
    (os.mkfifo, "is no file. Remove it."),
    (lambda path: path.symlink_to("/dev/zero"), "is no file. Remove it."),
    (lambda path: path.symlink_to("nowhere"), "cannot be read (No such file or directory)."),
]
IDS = [
    *("text", "empty", "program", "cut", "huge", "huge tiff", "huge ppm", "no pixels", "flat"),
    *("huge comment", "pipe", "device", "dangling"),
]
QUICK = ("program", "cut", "huge", "huge comment", "device", "dangling")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(*case, id=name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name, case in zip(IDS, SPOILT, strict=True)
    ],
)
def test_images_that_are_refused(
    spoil: Callable[[Path], object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make_folder(tmp_path / "photos")
    if spoil.__name__ != "<lambda>" or "read_bytes" not in spoil.__code__.co_names:
        path.unlink()
    spoil(path)
    args = [*SMALL, "--data.roots", f"[{tmp_path / 'photos'}]", "--runs_dir", str(tmp_path / "r")]
    fails(train.main, args, f"data: {path} {message}…", capsys)
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "photos/.cache").exists()


def test_only_formats_of_pixels_are_opened() -> None:
    """Each of them is known to Pillow, and each suffix is of one of them."""
    Image.init()
    by_suffix = {Image.EXTENSION[suffix] for suffix in decoding.SUFFIXES}
    assert by_suffix == set(decoding.FORMATS) <= set(Image.OPEN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged (…"),
        (b"no array", "is damaged (…"),
        (b"cut", "is damaged (…"),
        (b"shape", "is not the array that was saved there. Remove it."),
    ],
)
def test_damaged_cache_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    files = [save_image(tmp_path / "7.png", 7)]
    decoding.decode(files, 32, tmp_path)
    (cache,) = tmp_path.glob("*.npy")
    if content == b"cut":
        content = cache.read_bytes()[:300]
    elif content == b"shape":
        content = cache.read_bytes().replace(b"(1, 32, 32, 3)", b"(1, 16, 64, 3)")
    cache.write_bytes(content)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        decoding.decode(files, 32, tmp_path)
    assert str(error.value).startswith(f"{cache} {message.removesuffix('…')}")


def cifar10(folder: Path) -> list[str]:
    return [*experiment("cifar10"), "--data.data_dir", str(folder), "--trainer.accelerator", "cpu"]


@needs_cifar10
@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("../../outside", True),
        ("/absolute", False),
        *(
            pytest.param(name, there, marks=pytest.mark.slow)
            for name, there in (
                *(("../../outside", False), ("/absolute", True)),
                *(("cifar-10-batches-py/test_batch", there) for there in (True, False)),
            )
        ),
    ],
)
def test_archives_are_checked_before_they_are_unpacked(
    name: str,
    there: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not a member is written: neither outside the folder nor in it."""
    folder = tmp_path / "data/cifar10"
    folder.mkdir(parents=True)
    name = str(tmp_path / name[1:]) if name.startswith("/") else name
    source = folder if there else tmp_path
    with tarfile.open(source / CIFAR10.filename, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))

    def fetch(url: str, target: str) -> None:
        shutil.copy(source / CIFAR10.filename, target)

    monkeypatch.setattr(downloads, "_get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr(downloads, "_urlretrieve", fetch)
    monkeypatch.setattr(downloads, "extract_archive", lambda *_: pytest.fail("unpacked"))
    before = sorted(tmp_path.rglob("*"))
    refusals = {
        True: f"data.data_dir: {folder / CIFAR10.filename} is incomplete or not the official…",
        False: f"data.data_dir: {folder} holds no CIFAR-10, and the download failed: File not…",
    }
    args = [*cifar10(folder), "--runs_dir", str(tmp_path / "runs")]
    fails(train.main, args, refusals[there], capsys)
    assert sorted(tmp_path.rglob("*")) == before


@needs_cifar10
def test_archive_that_is_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / CIFAR10.filename)
    message = f"data: {tmp_path / CIFAR10.filename} is no file. Remove it."
    fails(train.main, [*cifar10(tmp_path), "--runs_dir", str(tmp_path / "r")], message, capsys)


FORMS = ("png", "jpg", "gif", "tif", "webp", "bmp", "ppm")


@few_and_many
def test_spoilt_images(examples: int, tmp_path: Path) -> None:
    """Read as some other picture, or refused, and then nothing is cached."""
    spoilt = make_folder(tmp_path / "photos")
    spoilt.unlink()
    gradient = torch.arange(SIZE_PX**2 * 3).reshape(SIZE_PX, SIZE_PX, 3).to(torch.uint8)
    pictures = []
    for form in FORMS:
        path = spoilt.with_suffix(f".{form}")
        Image.fromarray(gradient.numpy()).save(path)
        pictures.append(st.tuples(st.just(path), damaged(path.read_bytes())))
        path.unlink()
    args = [*SMALL, "--data.roots", f"[{tmp_path / 'photos'}]", "--trainer.fast_dev_run", "1"]

    def check(case: tuple[Path, bytes]) -> None:
        path, content = case
        path.write_bytes(content)
        status = outcome(train.main, [*args, "--runs_dir", str(tmp_path / "runs")])
        check_files(tmp_path)
        assert not (tmp_path / "runs").exists()
        assert (tmp_path / "photos/.cache").exists() == (status == 0)
        shutil.rmtree(tmp_path / "photos/.cache", ignore_errors=True)
        path.unlink()

    fuzz(check, st.one_of(pictures), examples)
