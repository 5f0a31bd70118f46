import hashlib
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, utils as downloads
from torchvision.datasets.utils import calculate_md5

from src.data import CIFAR10DataModule
from src.data.cifar10 import CIFAR10_MEAN, CIFAR10_STD, CLASSES
from tests.lightkeel.data.pictures import save_image, shades
from tests.lightkeel.data.serving import serve, targets, trainer
from tests.lightkeel.test_hostile import MakesFolder

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(downloads, "_get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr(downloads, "_urlretrieve", offline)


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Of each class 3 images for training, of shade 20 * class + number, and 2 for test."""
    for label in range(10):
        for number in range(3):
            save_image(tmp_path / f"train/class{label}/{number}.png", 20 * label + number)
        for number in (10, 11):
            save_image(tmp_path / f"test/class{label}/{number}.png", 20 * label + number)
    return tmp_path


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images in each of the six official files; pixel k of channel c of image i: i, c, k."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for number, name in enumerate(names):
        data = np.zeros((2, 3, 32, 32), np.uint8)
        data[:, 0] = [[[2 * number]], [[2 * number + 1]]]
        data[:, 1] = np.arange(32)[:, None]  # the row
        data[:, 2] = np.arange(32)  # the column
        content = {"data": data.reshape(2, 3072), "labels": [number, number + 1]}
        lists["test_list" if name == "test_batch" else "train_list"] += [
            [name, write(name, content)]
        ]
    for attribute, files in lists.items():
        monkeypatch.setattr(CIFAR10, attribute, files)
    md5 = write("batches.meta", {"label_names": [f"class{label}" for label in range(10)]})
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5})
    return tmp_path


@pytest.fixture
def archive(official: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = official / CIFAR10.filename
    with tarfile.open(path, "w:gz") as tar:
        tar.add(official / CIFAR10.base_folder, CIFAR10.base_folder)
    for file in (official / CIFAR10.base_folder).iterdir():
        file.unlink()
    (official / CIFAR10.base_folder).rmdir()
    monkeypatch.setattr(CIFAR10, "tgz_md5", calculate_md5(str(path)))
    return path


def cifar10(folder: Path, **settings: Any) -> CIFAR10DataModule:
    return CIFAR10DataModule(str(folder), **{"batch_size": 100, "seed": 0, **settings})


def check_official(data: CIFAR10DataModule) -> None:
    served = sorted(targets(serve(data, "train"))[0] + targets(serve(data, "val"))[0])
    assert served == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert targets(serve(data, "test")) == [[5, 6]]
    for source, numbers in {"train": range(10), "test": range(10, 12)}.items():
        pixels = data.sources[source].inputs
        assert pixels.shape == (len(numbers), 32, 32, 3)
        assert pixels[:, 3, 5].tolist() == [[number, 3, 5] for number in numbers]


def refusal(data: CIFAR10DataModule) -> str:
    data.trainer = trainer()
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        data.prepare_data()
    return str(error.value)


def test_class_folders(class_folders: Path) -> None:
    data = cifar10(class_folders, val_fraction=0.2)
    (train, train_labels), (val, val_labels) = (serve(data, s)[0] for s in ("train", "val"))
    assert (train.shape, val.shape) == ((24, 3, 32, 32), (6, 3, 32, 32))
    assert sorted([*train_labels.tolist(), *val_labels.tolist()]) == sorted([*range(10)] * 3)
    assert shades(data.sources["train"].inputs) == [
        20 * label + number for label in range(10) for number in range(3)
    ]
    rows = {split: data.datasets[split].rows.tolist() for split in data.datasets}
    assert rows["val"] == [3, 5, 17, 19, 22, 23]
    assert sorted(rows["train"] + rows["val"]) == list(range(30))
    test, labels = serve(data, "test")[0]
    assert labels.tolist() == [label for label in range(10) for _ in range(2)]
    shade = torch.tensor([20 * label + number for label in range(10) for number in (10, 11)])
    expected = (shade[:, None] / 255 - torch.tensor(CIFAR10_MEAN)) / torch.tensor(CIFAR10_STD)
    torch.testing.assert_close(test[:, :, 0, 0], expected, rtol=0, atol=1e-5)
    assert (class_folders / ".cache").is_dir()


def test_cache_dir(class_folders: Path, tmp_path: Path) -> None:
    serve(cifar10(class_folders, cache_dir=str(tmp_path / "elsewhere")))
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    assert not (class_folders / ".cache").exists()


def test_test_images_are_read_by_test_alone(class_folders: Path) -> None:
    broken = class_folders / "test/class3/10.png"
    broken.write_text("no image")
    data = cifar10(class_folders)
    serve(data, "train")
    serve(data, "val")
    assert data.sources.keys() == {"train"}
    with pytest.raises(ValueError, match=r"/test/class3/10\.png is not a readable image: "):
        serve(data, "test")


def test_class_folders_that_are_refused(class_folders: Path) -> None:
    (class_folders / "test").rename(class_folders / "kept")
    assert refusal(cifar10(class_folders)) == (f"data_dir: {class_folders / 'test'} is missing.")
    (class_folders / "kept").rename(class_folders / "test")
    (class_folders / "test/class9").rename(class_folders / "test/.class9")
    assert refusal(cifar10(class_folders)) == (
        f"data_dir: {class_folders / 'test'} holds 9 class folders, CIFAR-10 has 10. "
        "Use ImageFolderDataModule for other images."
    )
    (class_folders / "test/.class9").rename(class_folders / "test/class9")
    save_image(class_folders / "train/class0/0.png", 0, size=(32, 31))
    assert refusal(cifar10(class_folders)) == (
        f"{class_folders / 'train/class0/0.png'} is 32 x 31 pixels, not 32 x 32. "
        "Use ImageFolderDataModule for images of other sizes."
    )


def test_official_batches(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_official(cifar10(official))
    found = sorted(file.name for file in (official / ".cache").iterdir())
    assert found == [f"official-{split}-{n}.npy" for split in ("test", "train") for n in ("x", "y")]
    monkeypatch.setattr(CIFAR10, "__init__", lambda *_, **__: pytest.fail("unpickled again"))
    check_official(cifar10(official))


def test_official_batches_without_a_cache(official: Path) -> None:
    (official / ".cache").write_text("a file where the folder would be")
    with pytest.warns(UserWarning, match=r"^The decoded images cannot be cached in .*/\.cache \("):
        check_official(cifar10(official))


def test_official_batches_that_are_incomplete(official: Path) -> None:
    (official / CIFAR10.base_folder / "data_batch_2").write_bytes(b"half")
    assert refusal(cifar10(official)) == (
        f"data_dir: {official / CIFAR10.base_folder} is incomplete or not the official one (MD5). "
        "Remove it, then unpack or download it again."
    )


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_batches_of_others_are_not_unpickled(name: str, official: Path) -> None:
    """Official files are pickles, which could run code: they are opened by their MD5 alone."""
    payload = MakesFolder(official / "made by the payload")
    (official / CIFAR10.base_folder / name).write_bytes(pickle.dumps(payload))
    assert refusal(cifar10(official)).startswith(
        f"data_dir: {official / CIFAR10.base_folder} is incomplete or not the official one (MD5)."
    )
    assert not payload.folder.exists()


def test_official_archive(archive: Path) -> None:
    check_official(cifar10(archive.parent))
    assert archive.exists()


def test_archive_that_is_truncated(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-100])
    assert refusal(cifar10(archive.parent)) == (
        f"data_dir: {archive} is incomplete or not the official archive (its MD5 is not "
        f"{CIFAR10.tgz_md5}). Remove it, then download it again."
    )
    assert list(archive.parent.iterdir()) == [archive]


def test_archive_that_cannot_be_unpacked(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(downloads, "extract_archive", fill_the_disk)
    with pytest.raises(OSError, match=r"^No space left on device$"):
        cifar10(archive.parent).prepare_data()
    assert archive.exists()


def test_download(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, target: str) -> None:
        assert url == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
        Path(target).write_bytes(archive.read_bytes())

    monkeypatch.setattr(downloads, "_urlretrieve", fetch)
    check_official(cifar10(tmp_path / "new"))


@pytest.mark.parametrize(
    ("got", "reason"), [(None, "no network in tests"), (b"half", "File not found or corrupted.")]
)
def test_download_that_fails(
    got: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if got is not None:
        content = got
        monkeypatch.setattr(downloads, "_urlretrieve", lambda _, p: Path(p).write_bytes(content))
    folder = tmp_path / "cifar10"
    assert refusal(cifar10(folder)) == (
        f"data_dir: {folder} holds no CIFAR-10, and the download failed: {reason}.\n"
        "Put cifar-10-python.tar.gz or class folders train/<class>/ and test/<class>/ there, "
        "or train offline with --config cifar10_synthetic."
    )
    assert list(folder.iterdir()) == []


def test_val_fraction_is_checked() -> None:
    with pytest.raises(ValueError, match=r"^val_fraction: 1 is not in \(0, 1\)\.$"):
        CIFAR10DataModule(val_fraction=1)


@pytest.mark.skipif(
    not (ROOT / "data/cifar10/train").is_dir(), reason="data/cifar10/train: no images to recompute"
)
def test_mean_and_standard_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all pixels; the tolerance is for a copy in JPEG, which smooths."""
    monkeypatch.chdir(ROOT)  # the cache is keyed by the paths of the files, relative in configs
    pixels = CIFAR10DataModule().load("train").inputs
    assert pixels.shape == (50_000, 32, 32, 3)
    values = torch.arange(256).double() / 255
    for channel in range(3):
        counts = torch.bincount(pixels[..., channel].reshape(-1), minlength=256) / (50_000 * 1024)
        mean = (counts * values).sum().item()
        std = (counts * (values - mean).square()).sum().sqrt().item()
        assert abs(mean - CIFAR10_MEAN[channel]) < 2e-3
        assert abs(std - CIFAR10_STD[channel]) < 2e-3


def test_classes_of_a_trained_model(class_folders: Path) -> None:
    """Of the test images those of two classes are here, by the numbers of a model of twelve."""
    names = ["x", *(f"class{label}" for label in range(10, -1, -1))]
    for label in (*range(3), *range(5, 10)):
        shutil.rmtree(class_folders / f"test/class{label}")
    data = cifar10(class_folders)
    data.use_classes(names)
    assert (data.num_classes, data.class_names) == (12, names)
    assert targets(serve(data, "test")) == [[8, 8, 7, 7]]


def test_official_classes_of_a_trained_model(official: Path) -> None:
    data = cifar10(official)
    data.use_classes([*reversed(CLASSES), "x"])
    assert targets(serve(data, "test")) == [[4, 3]]


def test_classes_that_differ_between_the_splits(class_folders: Path) -> None:
    (class_folders / "test/class3").rename(class_folders / "test/klass3")
    folder = class_folders / "test/klass3"
    assert refusal(cifar10(class_folders)) == (
        f"data_dir: {folder} is a class that train does not have."
    )


def test_folder_beside_the_splits(class_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (class_folders / "val").mkdir()
    serve(cifar10(class_folders))
    warning = "passed over 1, neither train nor test: " + f"{class_folders.name}/val"
    assert capsys.readouterr().err == f"warning: data.data_dir: {warning}\n"
