from pathlib import Path
from typing import Any

import pytest

from lightkeel.data.image_folder import ImageFolderDataModule
from tests.lightkeel.data.pictures import save_image, shades
from tests.lightkeel.data.serving import SPLITS, serve, targets, trainer


def save(root: Path, *names: str) -> str:
    """Save images whose shades are 10, 11, 12, ... in the order given."""
    for shade, name in enumerate(names, 10):
        save_image(root / f"{name}.png", shade, size=(8, 8))
    return str(root)


def folder(*roots: str, **settings: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(
        roots, **{"image_size_px": 8, "batch_size": 100, "shuffle": False, "seed": 0, **settings}
    )


def rows(data: ImageFolderDataModule) -> dict[str, list[int]]:
    for split in SPLITS:
        serve(data, split)
    return {split: data.datasets[split].rows.tolist() for split in SPLITS}


def refusal(data: ImageFolderDataModule) -> str:
    data.trainer = trainer()
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        data.prepare_data()
    return str(error.value)


def test_one_root_is_split_by_the_seed(tmp_path: Path) -> None:
    root = save(tmp_path, *(f"{name}/{n}" for name in ("cat", "dog") for n in range(5)))
    data = folder(root, val_fraction=0.2, test_fraction=0.1)
    assert rows(data) == {"val": [3, 5], "test": [7], "train": [0, 1, 2, 4, 6, 8, 9]}
    assert targets(serve(data)) == [[0, 0, 0, 0, 1, 1, 1]]
    assert shades(data.sources["all"].inputs) == list(range(10, 20))
    assert rows(folder(root, val_fraction=0.2, test_fraction=0.1, seed=2))["test"] == [4]
    assert data.num_classes == 2
    assert (tmp_path / ".cache").is_dir()


def test_train_and_test_folders(tmp_path: Path) -> None:
    train = [f"train/{name}/{n}" for name in ("a", "b") for n in range(5)]
    data = folder(save(tmp_path, *train, "test/a/0", "test/b/0", "test/b/1"), val_fraction=0.2)
    assert rows(data) == {"val": [3, 5], "test": [0, 1, 2], "train": [0, 1, 2, 4, 6, 7, 8, 9]}
    assert targets(serve(data, "test")) == [[0, 1, 1]]
    assert shades(data.sources["test"].inputs) == [20, 21, 22]


def test_train_val_and_test_folders(tmp_path: Path) -> None:
    names = ("train/a/0", "train/b/0", "train/c/0", "val/c/0", "test/b/0", "test/a/0")
    data = folder(save(tmp_path, *names))
    assert rows(data) == {"train": [0, 1, 2], "val": [0], "test": [0, 1]}
    assert [targets(serve(data, split)) for split in SPLITS] == [[[0, 1, 2]], [[2]], [[0, 1]]]
    assert shades(data.sources["test"].inputs) == [15, 14]
    assert data.num_classes == 3


def test_roots_are_joined_by_the_names_of_classes(tmp_path: Path) -> None:
    one = save(tmp_path / "one", "b/0", "d/0", "d/1")
    two = save(tmp_path / "two", "a/0", "b/0", "d/0")
    data = folder(one, two, cache_dir=str(tmp_path / "cache"))
    arrays = data.load("all")
    assert arrays.targets.tolist() == [1, 2, 2, 0, 1, 2]
    assert shades(arrays.inputs) == [10, 11, 12, 10, 11, 12]
    assert data.num_classes == 3
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_images_are_resized(tmp_path: Path) -> None:
    data = folder(save(tmp_path, "a/0", "a/1", "b/0", "b/1"), image_size_px=5)
    (batch, _), *_ = serve(data)
    assert batch.shape == (2, 3, 5, 5)
    assert shades(data.sources["all"].inputs) == [10, 11, 12, 13]


def test_test_images_are_read_by_test_alone(tmp_path: Path) -> None:
    data = folder(save(tmp_path, "train/a/0", "train/a/1", "test/a/0"))
    (tmp_path / "test/a/0.png").write_text("no image")
    serve(data, "train")
    serve(data, "val")
    with pytest.raises(ValueError, match=r"/test/a/0\.png is not a readable image: "):
        serve(data, "test")


def test_class_that_training_does_not_have(tmp_path: Path) -> None:
    data = folder(save(tmp_path, "train/a/0", "val/z/0", "test/a/0"))
    assert refusal(data) == f"roots: {tmp_path / 'val/z'} is a class that train does not have."


@pytest.mark.parametrize("known", [None, ["z", "b", "a"]])
def test_numbers_of_classes(known: list[str] | None, tmp_path: Path) -> None:
    data = folder(save(tmp_path, "train/a/0", "train/b/0", "train/b/1", "val/b/0", "test/a/0"))
    if known:
        data.use_classes(known)
    numbers = [known.index(name) if known else place for place, name in enumerate("ab")]
    first, second = numbers
    found = [targets(serve(data, split)) for split in SPLITS]
    assert found == [[[first, second, second]], [[second]], [[first]]]
    assert data.num_classes == len(known or "ab")
    assert data.class_names == (known or ["a", "b"])


def test_class_that_training_does_not_have_is_found_before_it(tmp_path: Path) -> None:
    data = folder(save(tmp_path, "train/a/0", "train/a/1", "test/z/0"))
    assert refusal(data) == f"roots: {tmp_path / 'test/z'} is a class that train does not have."


def test_folders_beside_the_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder(save(tmp_path, "train/a/0", "train/a/1", "test/a/0", "valid/a/0", "extra/a/0"))
    serve(data)
    places = f"{tmp_path.name}/extra, {tmp_path.name}/valid"
    passed = f"warning: data.roots: passed over 2, neither train, val nor test: {places}\n"
    assert capsys.readouterr().err == passed


def test_class_folder_without_images(tmp_path: Path) -> None:
    data = folder(save(tmp_path, "a/0"))
    (tmp_path / "b").mkdir()
    assert refusal(data).startswith(f"{tmp_path / 'b'} holds no images (")


@pytest.mark.parametrize(
    ("names", "missing"), [(["train/a/0"], "test"), (["val/a/0", "test/a/0"], "train")]
)
def test_missing_split_folders(names: list[str], missing: str, tmp_path: Path) -> None:
    data = folder(save(tmp_path, *names))
    message = f"roots: {tmp_path / missing} is missing."
    assert refusal(data) == message
    with pytest.raises(FileNotFoundError, match=message):
        _ = data.num_classes


def test_missing_roots(tmp_path: Path) -> None:
    root = save(tmp_path / "there", "a/0")
    assert refusal(folder(root, str(tmp_path / "x"))) == f"roots: {tmp_path / 'x'} is no folder."
    with pytest.raises(FileNotFoundError, match="/x is no folder"):
        _ = folder(str(tmp_path / "x")).num_classes


def test_split_and_plain_roots_do_not_mix(tmp_path: Path) -> None:
    plain = save(tmp_path / "plain", "a/0")
    split = save(tmp_path / "split", "train/a/0", "test/a/0")
    message = f"roots: {plain} has no train folder, but {split} is split."
    assert refusal(folder(plain, split)) == refusal(folder(split, plain)) == message


def test_too_few_images_to_split(tmp_path: Path) -> None:
    data = folder(save(tmp_path, "a/0", "b/0"))
    with pytest.raises(ValueError, match=r"^val and test: would take all of the 2 samples\.$"):
        serve(data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"roots": []}, "roots: empty. Give at least one folder."),
        ({"roots": ["x", "y", "./x/"]}, "roots: x is given twice."),
        ({"val_fraction": 0}, "val_fraction: 0 is not in (0, 1)."),
        ({"test_fraction": 1}, "test_fraction: 1 is not in (0, 1)."),
        (
            {"val_fraction": 0.5, "test_fraction": 0.5},
            "val_fraction: 0.5 with test_fraction leaves no training.",
        ),
    ],
)
def test_constructor_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        ImageFolderDataModule(**{"roots": ["x"], **settings})
    assert str(error.value) == message
