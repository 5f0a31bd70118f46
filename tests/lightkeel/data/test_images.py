import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lightkeel.data import array_file, decoding, image_folder, images, philox
from lightkeel.data.decoding import decode, eight_bits
from lightkeel.data.images import ImageDataModule
from lightkeel.data.in_memory import Arrays, Split
from tests.lightkeel.data.pictures import save_image, shades
from tests.lightkeel.data.serving import SPLITS, serve

AUGMENT = {"random_crop": {"pad_px": 2}, "horizontal_flip": None}
# A program: where Ghostscript is installed, Pillow would run it.
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
MEAN, STD = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)


class Photographs(ImageDataModule):
    """Random pixels; of the 24 images 6 are for validation; each image's target is its row."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(6, MEAN, STD, **{"seed": 0, "batch_size": 8, **kwargs})

    def source(self, split: Split) -> str:
        return "test" if split == "test" else "train"

    def select(self, split: Split, num_rows: int) -> Tensor:
        if split == "test":
            return torch.arange(num_rows)
        return self.split_rows(num_rows, val=0.25)[split]

    def load(self, source: str) -> Arrays:
        random = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (24, 6, 6, 3), dtype=torch.uint8, generator=random)
        return Arrays(pixels, torch.arange(24))


def pixels_of_rows(data: Photographs, *args: Any, **kwargs: Any) -> dict[int, Tensor]:
    return {
        row: image
        for batch, rows in serve(data, *args, **kwargs)
        for row, image in zip(rows.tolist(), batch, strict=True)
    }


def same_images(some: dict[int, Tensor], others: dict[int, Tensor]) -> list[bool]:
    return [torch.equal(image, others[row]) for row, image in some.items()]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"batch_size": 3}, 18),
        ({"num_workers": 2}, 18),
        ({"device_resident": True}, 18),
        ({"shuffle": False}, 18),
        ({"subset": 5, "batch_size": 2, "num_workers": 1, "device_resident": True}, 5),
    ],
)
def test_augmentation_depends_on_seed_epoch_and_row_alone(
    settings: dict[str, Any], count: int
) -> None:
    reference = pixels_of_rows(Photographs(augment=AUGMENT), epoch=1)
    found = pixels_of_rows(Photographs(augment=AUGMENT, **settings), epoch=1)
    assert same_images(found, reference) == [True] * count


def test_augmentation_is_the_same_on_two_devices() -> None:
    reference = pixels_of_rows(Photographs(augment=AUGMENT))
    for rank in (0, 1):
        found = pixels_of_rows(Photographs(augment=AUGMENT), devices=2, rank=rank)
        assert same_images(found, reference) == [True] * 9


def test_augmentation_differs_by_epoch_seed_and_row() -> None:
    data = Photographs(augment=AUGMENT, val_batch_size=24)
    first, second = (pixels_of_rows(data, epoch=epoch) for epoch in (0, 1))
    assert sum(same_images(first, second)) <= 3  # 25 shifts and 2 sides: 1 in 50 by chance
    draws = [data._epoch_draws(torch.device("cpu"))[name].clone() for name in AUGMENT]
    assert len(torch.unique(torch.cat(draws)[:, 0])) == 2 * 24
    other_seed = pixels_of_rows(Photographs(augment=AUGMENT, seed=1), epoch=0)
    shared = {row: image for row, image in first.items() if row in other_seed}
    assert len(shared) >= 12
    assert sum(same_images(shared, other_seed)) <= 3
    again = pixels_of_rows(data, epoch=0)
    assert same_images(again, first) == [True] * 18


def test_alternating_flips_take_turns() -> None:
    data = Photographs(augment={"alternating_flip": None})
    plain = pixels_of_rows(Photographs())
    seen = [pixels_of_rows(data, epoch=epoch) for epoch in range(4)]
    for row, image in plain.items():
        sides = [torch.equal(epoch[row], image) for epoch in seen]
        assert sides in ([True, False] * 2, [False, True] * 2)
        assert torch.equal(seen[sides.index(False)][row], image.flip(2))
    assert 3 <= sum(same_images(seen[0], plain)) <= 15  # 18 of even odds: beyond 2.8 deviations


def test_mirrored_draws_are_draws() -> None:
    even, odd = (images.draw(5000, 0, epoch, "alternating_x") for epoch in (4, 7))
    torch.testing.assert_close(even + odd, torch.ones(5000, 4))
    assert ((odd >= 0) & (odd < 1)).all()
    assert torch.equal(images.draw(5, 0, 4, "other"), philox.uniform(5, 0, 4, "other"))


def test_training_images_are_those_of_evaluation() -> None:
    data = Photographs(augment=AUGMENT)
    serve(data)
    found = data.training_images(7)
    plain = pixels_of_rows(Photographs())
    rows = data.datasets["train"].rows[:7].tolist()
    assert found.shape == (7, 3, 6, 6)
    assert all(torch.equal(image, plain[row]) for row, image in zip(rows, found, strict=True))


def test_evaluation_is_normalized_like_training_and_never_augmented() -> None:
    data = Photographs(augment=AUGMENT)
    raw = data.load("train").inputs.permute(0, 3, 1, 2) / 255
    normalized = (raw - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    train, val, test = (pixels_of_rows(data, split) for split in SPLITS)
    plain_train = pixels_of_rows(Photographs())
    assert [len(found) for found in (train, val, test, plain_train)] == [18, 6, 24, 18]
    assert train.keys().isdisjoint(val)
    for found in (val, test, plain_train):
        for row, image in found.items():
            torch.testing.assert_close(image, normalized[row], rtol=0, atol=1e-6)
    # An augmented image holds pixels of the original, in other places.
    for row, image in train.items():
        offered = set((normalized[row] * 1000).round().flatten().tolist())
        assert set((image * 1000).round().flatten().tolist()) <= offered
    assert sum(same_images(train, plain_train)) <= 3


def test_batches_are_float32_in_channels_last_memory() -> None:
    (batch, _), *_ = serve(Photographs())
    assert (batch.shape, batch.dtype) == ((8, 3, 6, 6), torch.float32)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_pixels_come_back() -> None:
    data = Photographs()
    for row, image in pixels_of_rows(data).items():
        assert torch.equal(data.pixels(image[None])[0], data.load("train").inputs[row])


def test_floats_of_a_collate_fn_are_left_as_they_are() -> None:
    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([x for x, _ in samples]) / 255, torch.stack([y for _, y in samples])

    data = Photographs(augment=AUGMENT, collate_fn=collate)
    for row, image in pixels_of_rows(data).items():
        assert torch.equal(image, data.load("train").inputs[row].permute(2, 0, 1) / 255)


def test_augmentations_are_applied_in_the_order_given() -> None:
    pixels = torch.arange(36, dtype=torch.uint8).view(1, 6, 6, 1)
    draws = torch.tensor([[0.5, 0.0, 0, 0]])
    settings: dict[str, dict[str, Any]] = {"random_crop": {}, "horizontal_flip": {"probability": 1}}
    found = images.find_augmentations(settings, 6)
    assert list(found) == ["random_crop", "horizontal_flip"]
    once = found["random_crop"](pixels, draws)
    assert once[0, 0, :, 0].tolist() == [2, 1, 0, 1, 2, 3]
    assert found["horizontal_flip"](once, draws)[0, 0, :, 0].tolist() == [3, 2, 1, 0, 1, 2]


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (
            {"random_crob": {}},
            "augment.random_crob: no such augmentation. Did you mean `random_crop`?",
        ),
        (
            {"xyz": None},
            "augment.xyz: no such augmentation. "
            "Available: alternating_flip, horizontal_flip, random_crop.",
        ),
        (
            {"random_crop": {"pad": 1}},
            "augment.random_crop.pad: random_crop has no such option. Did you mean `pad_px`?",
        ),
        ({"random_crop": {"pad_px": 6}}, "augment.random_crop.pad_px: 6 is not in [0, 6)."),
        (
            {"horizontal_flip": {"probability": 2}},
            "augment.horizontal_flip.probability: 2 is not in [0, 1].",
        ),
        (
            {"random_crop": {"pad_px": 2.5}},
            "augment.random_crop: {'pad_px': 2.5} does not fit: "
            "tensors used as indices must be long, int, byte or bool tensors.",
        ),
    ],
)
def test_augmentations_that_are_refused(augment: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole message is compared)
        Photographs(augment=augment)
    assert str(error.value) == message


def test_project_without_augmentations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "current", lambda: SimpleNamespace(package="tests"))
    assert pixels_of_rows(Photographs()).keys() == pixels_of_rows(Photographs(augment={})).keys()
    with pytest.raises(ValueError, match=r"^augment.flip: no such augmentation. Available: none.$"):
        Photographs(augment={"flip": None})


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5, 0.5), (0.5, 0)), ((), ())])
def test_standard_deviations_that_are_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        ImageDataModule(8, mean, std)
    assert (
        str(error.value)
        == f"std: {list(std)} must be positive, one or three, and as many as in mean."
    )


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: Path, **_: Any) -> None:
        pytest.fail(f"{file} is decoded again")

    monkeypatch.setattr(decoding, "decode_one", fail)


def test_decoded_images_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [save_image(tmp_path / f"{shade}.png", shade) for shade in (7, 9, 8)]
    cache = tmp_path / "deep" / "cache"
    decoded = decode(files, 32, cache)
    assert (decoded.shape, decoded.dtype) == ((3, 32, 32, 3), torch.uint8)
    assert shades(decoded) == [7, 9, 8]
    (file,) = cache.iterdir()
    assert file.suffix == ".npy"
    umask = os.umask(0)
    os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask  # others of a shared machine may read it
    with monkeypatch.context() as patch:
        no_decoding(patch)
        mapped = decode(files, 32, cache)
        assert shades(mapped) == [7, 9, 8]
        mapped[0] = 255  # of this process alone
        assert shades(decode(files, 32, cache)) == [7, 9, 8]
    assert shades(decode(files[:2], 32, cache)) == [7, 9]
    assert decode(files, 16, cache).shape == (3, 16, 16, 3)


def test_cache_sees_a_changed_file(tmp_path: Path) -> None:
    files = [save_image(tmp_path / f"{shade}.bmp", shade) for shade in (7, 9)]
    assert shades(decode(files, 32, tmp_path)) == [7, 9]
    before = files[1].stat()
    save_image(files[1], 10)
    os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert files[1].stat().st_size == before.st_size
    assert shades(decode(files, 32, tmp_path)) == [7, 10]


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    files = [save_image(tmp_path / "7.png", 7)]
    cache = tmp_path / "cache"
    cache.write_text("a file where the folder would be")
    message = (
        f"The decoded images cannot be cached in {cache} (File exists), so they are decoded in "
        "every run and not shared by processes. Set data.cache_dir."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert shades(decode(files, 32, cache)) == [7]


def test_no_half_written_array_is_left(tmp_path: Path) -> None:
    (tmp_path / "taken.npy").mkdir()
    with pytest.raises(IsADirectoryError):
        array_file.save_array(np.zeros(1), tmp_path / "taken.npy")
    assert list(tmp_path.glob("*.part")) == []


def test_unreadable_images(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    cut = save_image(tmp_path / "cut.bmp", 7)
    cut.write_bytes(cut.read_bytes()[:1000])
    for file, reason in {
        text: "cannot identify image file",
        cut: r"image file is truncated \(\d+ bytes not processed\)",
    }.items():
        message = rf"^{file} is not a readable image: {reason}\. Mend or remove it\.$"
        with pytest.raises(ValueError, match=message):
            decode([file], 32, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_images_of_another_size(tmp_path: Path) -> None:
    file = save_image(tmp_path / "wide.png", 7, size=(40, 32))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        decode([file], 32, tmp_path / "cache", resize=False)
    assert str(error.value) == (
        f"{file} is 40 x 32 pixels, not 32 x 32. "
        "Use ImageFolderDataModule for images of other sizes."
    )


def test_resizing_scales_and_crops_at_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert shades(decode([tmp_path / "wide.png"], 8, tmp_path / "cache")) == [200]


def test_pixels_stay_in_place(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "4.png")
    decoded = decode([tmp_path / "4.png"], 4, tmp_path / "cache")
    assert decoded[0].tolist() == pixels.tolist()


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 9).save(tmp_path / "grey.png")
    Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(tmp_path / "transparent.png")
    files, _ = decoding.find_images(tmp_path)
    assert shades(decode(files, 4, tmp_path / "cache")) == [9, 9]


def test_folders_without_images_or_classes(tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        image_folder.labelled("roots", [tmp_path], [tmp_path.name])
    assert str(error.value) == f"{tmp_path} holds no images ({', '.join(decoding.FORMATS)})."
    with pytest.raises(ValueError) as error:  # noqa: PT011
        image_folder.class_folders(tmp_path)
    assert str(error.value) == f"{tmp_path} holds no class folders."


def test_labels_number_the_folders(tmp_path: Path) -> None:
    for path in ("b/2.JPG", "b/1.png", "a/1.png", "a/notes.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    folders = image_folder.class_folders(tmp_path)
    files, labels = image_folder.labelled("roots", folders, ["a", "b"])
    assert [str(file.relative_to(tmp_path)) for file in files] == ["a/1.png", "b/1.png", "b/2.JPG"]
    assert labels.tolist() == [0, 1, 1]
    assert image_folder.labelled("roots", folders, ["b", "x", "a"])[1].tolist() == [2, 0, 0]


def test_images_are_found_by_content_in_all_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each class one that no suffix tells, one in a folder within, and a new format."""
    picture = Image.new("RGB", (4, 4))
    names = ["1.jfif", "deep/er/2", "3.avif", "4.unknown", "5.png/6.jpg"]
    names = names if "AVIF" in decoding.FORMATS else [n for n in names if n != "3.avif"]
    forms = {"1.jfif": "JPEG", "3.avif": "AVIF", "4.unknown": "WEBP"}
    for path in [tmp_path / "cat" / name for name in names]:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, forms.get(path.name, "PNG"))
    (tmp_path / "cat/deep/again").symlink_to(tmp_path / "cat")  # no end, and nothing twice
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", ".hidden/5.png", "__MACOSX/5.png"):
        path = tmp_path / "cat" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("junk")
    (tmp_path / "cat/deep/program.eps").write_bytes(EPS)
    (tmp_path / "cat/notes").write_text("BM is no bitmap")
    (tmp_path / "cat/table.csv").write_text("P6 1")
    os.mkfifo(tmp_path / "cat/zipe")
    for name in ("stray.png", "dogs.zip"):
        (tmp_path / name).touch()
    found = image_folder.labelled("roots", [tmp_path / "cat"], ["cat"])[0]
    assert [str(file.relative_to(tmp_path / "cat")) for file in found] == [
        str(p) for p in sorted(map(Path, names))
    ]
    passed = (
        "passed over 4, not readable as images: deep/program.eps, cat/notes, cat/table.csv, ..."
    )
    beside = f"{tmp_path.name}/dogs.zip, {tmp_path.name}/stray.png"
    stray = f"passed over 2, in no class folder: {beside}"
    err = capsys.readouterr().err
    assert err == f"warning: data.roots: {passed}\nwarning: data.roots: {stray}\n"
    assert decoding.decode(found, 4, tmp_path / ".cache").shape == (len(names), 4, 4, 3)


def test_only_what_has_no_suffix_of_images_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening 50,000 files at each start would take 4 s."""
    for suffix in decoding.SUFFIXES:
        (tmp_path / f"1{suffix}").touch()
        (tmp_path / f"2{suffix.upper()}").touch()
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    assert len(decoding.find_images(tmp_path)[0]) == 2 * len(decoding.SUFFIXES)


def test_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def refuse(folder: Any) -> Any:
        if str(folder).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # as root, nothing is refused
    with pytest.raises(ValueError, match=r"/secret cannot be read \(Permission denied\)\.$"):
        decoding.find_images(tmp_path)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_fractions_that_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        image_folder.ImageFolderDataModule(["x"], val_fraction=fraction)
    assert str(error.value) == f"val_fraction: {fraction} is not in (0, 1)."


def test_photographs_are_turned_upright_and_hidden_files_passed_over(tmp_path: Path) -> None:
    sideways = Image.new("RGB", (2, 1))
    sideways.putdata([(255, 0, 0), (0, 0, 255)])  # stored left to right, to be seen top to bottom
    exif = Image.Exif()
    exif[0x0112] = 6  # the tag for orientation: turn by 90 degrees clockwise
    sideways.resize((8, 4), Image.Resampling.NEAREST).save(tmp_path / "a.png", exif=exif)
    (tmp_path / "._a.png").write_bytes(b"what another system leaves beside a file")
    files, others = decoding.find_images(tmp_path)
    assert others == []
    (file,) = files
    pixels = decode([file], 4, tmp_path / "cache")[0]
    assert pixels[0].tolist() == [[255, 0, 0]] * 4
    assert pixels[3].tolist() == [[0, 0, 255]] * 4


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_sixteen_bits(suffix: str, tmp_path: Path) -> None:
    """Scaled as a whole, and not cut off at white."""
    values = np.array([[0, 257, 65535], [128, 129, 32896]], np.uint16)
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(values).save(path)
    with Image.open(path) as image:
        assert np.asarray(eight_bits(image)).tolist() == [[0, 1, 255], [0, 1, 128]]
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "real.tif")
    with pytest.raises(ValueError, match=r"real.tif is not a readable image: it has 32 bits a p"):
        decode([tmp_path / "real.tif"], 2, tmp_path / "cache")
