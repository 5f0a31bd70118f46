import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F

from lightkeel.callbacks.confusion import surest_mistakes
from lightkeel.callbacks.image_summaries import (
    LABEL_PX,
    ImageSummaries,
    grid,
    label,
    resize,
    stretch,
)
from lightkeel.data.images import ImageDataModule
from lightkeel.data.in_memory import Arrays, InMemoryDataModule, Split
from src.models.supervised import SupervisedModule
from tests.lightkeel.fitting import Given, fit

SIZE = 4


class Pictures(Given):
    """Serve pixels / 255; in training each is 10 pixels brighter, as if augmented."""

    @property
    def class_names(self) -> list[str]:
        return ["cat", "dog", "owl"]

    def transform(self, inputs: Tensor, rows: Tensor, split: Split) -> Tensor:
        return inputs + 10 / 255 if split == "train" else inputs

    def pixels(self, inputs: Tensor) -> Tensor:
        return (inputs.permute(0, 2, 3, 1) * 255).round().byte()


def pictures(channels: int = 1, count: int = 6, **settings: Any) -> Pictures:
    """Make images (N, C, 4, 4) of random pixels below 245, of three classes in turn."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(245, (count, channels, SIZE, SIZE), generator=random)
    return Pictures(pixels / 255, torch.arange(count) % 3, **{"batch_size": 3, **settings})


class Small(SupervisedModule):
    """A convolution and its negative, pooled; three classes, of which it sees the second."""

    def __init__(self, channels: int = 1, lr: float = 0.0, **kwargs: Any) -> None:
        conv, last = nn.Conv2d(channels, 2, 3, bias=False), nn.Linear(2, 3)
        layers = nn.Sequential(conv, nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Dropout(), last)
        super().__init__(layers, F.cross_entropy, {}, {"name": "SGD", "lr": lr}, **kwargs)
        with torch.no_grad():
            conv.weight[0] = torch.arange(9 * channels).reshape(channels, 3, 3) / 9
            conv.weight[1] = -conv.weight[0]
            last.weight.zero_()
            last.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))


def look(
    folder: Path,
    model: LightningModule,
    data: InMemoryDataModule,
    callback: ImageSummaries,
    **options: Any,
) -> dict[str, dict[int, Tensor]]:
    """Train, and return the images (C, H, W) in the event file, by tag and step."""
    logger = TensorBoardLogger(folder, name="", version="")
    settings: dict[str, Any] = {"limit_val_batches": 1.0, "num_sanity_val_steps": 2, **options}
    fit(folder, model, data, callback, logger=logger, **settings)
    events = EventAccumulator(str(folder), {"images": 0}).Reload()
    return {
        tag: {event.step: decode(event.encoded_image_string) for event in events.Images(tag)}
        for tag in events.Tags()["images"]
    }


def decode(encoded: bytes) -> Tensor:
    array = np.array(Image.open(io.BytesIO(encoded)))
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def blocks(rows: Sequence[Sequence[float]], factor: int) -> Tensor:
    """Make a tile: each value a square of pixels."""
    return (
        torch.tensor(rows).round().byte().repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    )


FIRST, SECOND = "feature_maps/00_conv_network.0", "feature_maps/01_pool_network.1"
ALL = {"images/augmented", "images/filters", "images/misclassified", FIRST, SECOND}


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ({"max_epochs": 1}, [0], [1]),
        # two steps an epoch; the last epoch is looked at too
        ({"max_epochs": 6}, [0, 6, 10], [1, 7, 11]),
        ({"max_epochs": 4, "val_check_interval": 0.5}, [0, 6], [0, 1, 6, 7]),
        ({"max_epochs": 8, "check_val_every_n_epoch": 2}, [0, 6, 12, 14], [3, 7, 15]),
        ({"max_steps": 3}, [0], [1]),
    ],
)
def test_steps(
    tmp_path: Path, options: dict[str, Any], before: list[int], after: list[int]
) -> None:
    images = look(tmp_path, Small(), pictures(), ImageSummaries(every_n_epochs=3), **options)
    assert images.keys() == ALL
    assert list(images["images/augmented"]) == before
    for tag in (FIRST, SECOND, "images/misclassified"):
        assert list(images[tag]) == after


def test_augmented_images_are_those_of_the_first_batch(tmp_path: Path) -> None:
    data = pictures(channels=3, batch_size=5)
    images = look(tmp_path, Small(3), data, ImageSummaries(num_images=4))["images/augmented"][0]
    assert images.shape == (3, 2 * 130 + 3, 2 * 130 + 3)
    first, third = (data.arrays.inputs[row] * 255 + 10 for row in (0, 2))
    assert torch.equal(images[:, 1:129:32, 1:129:32], first.round().byte())
    assert torch.equal(images[:, 134:262:32, 1:129:32], third.round().byte())
    # Around each a black line, and white between them.
    assert images[0, 125:140, 0].tolist() == [0] * 5 + [255] * 3 + [0] * 7
    assert images[0, 0, 125:140].tolist() == [0] * 5 + [255] * 3 + [0] * 7


class Stored(ImageDataModule):
    """Random pixels of three classes, all of them mirrored when they are trained on."""

    def __init__(self, **kwargs: Any) -> None:
        augment: dict[str, Any] = {"horizontal_flip": {"probability": 1.0}}
        super().__init__(SIZE, (0.5,), (0.25,), augment, seed=0, batch_size=4, **kwargs)

    def load(self, source: str) -> Arrays:
        pixels = torch.arange(8 * 3 * SIZE**2).reshape(8, SIZE, SIZE, 3) % 251
        return Arrays(pixels.byte(), torch.arange(8) % 3)


@pytest.mark.parametrize("is_resident", [False, True])
def test_augmented_images_beside_their_originals(tmp_path: Path, is_resident: bool) -> None:
    """Of a shuffled epoch, as the rows of a grid: the original, white, and what was trained on."""
    data = Stored(device_resident=is_resident)
    shown = look(tmp_path, Small(3), data, ImageSummaries(), max_epochs=2)["images/augmented"]
    assert list(shown) == [0, 2]
    assert not torch.equal(shown[0], shown[2])  # another order
    for images in shown.values():
        assert images.shape == (3, 2 * 130 + 3, 2 * 261 + 3)
        for top, left in [(1, 1), (1, 265), (134, 1), (134, 265)]:
            tile = images[:, top : top + 128, left : left + 259]
            assert torch.equal(tile[:, :, :128], tile[:, :, 131:].flip(2))
            assert bool((tile[:, :, 128:131] == 255).all())
        assert len({tuple(images[:, y, x].tolist()) for y in (1, 134) for x in (1, 265)}) == 4


def test_images_that_the_data_cannot_bring_back_are_stretched(tmp_path: Path) -> None:
    shades = torch.tensor([-2.0, 0.0, 2.0]).view(3, 1, 1, 1).repeat(1, 1, SIZE, SIZE)
    data = Given(shades, torch.arange(3), batch_size=3)
    images = look(tmp_path, Small(), data, ImageSummaries())["images/augmented"][0]
    corners = [int(images[0, y, x]) for y in (1, 134) for x in (1, 134)]
    assert corners == [0, 128, 255, 255]  # the fourth place is empty


def test_feature_maps_by_hand(tmp_path: Path) -> None:
    data = pictures()
    data.arrays.inputs[0] = 0
    data.arrays.inputs[0, 0, 2, 2] = 1
    images = look(tmp_path, Small(), data, ImageSummaries())
    # The weights are 0 to 8 ninths; where the bright pixel lies under them, output y, x is
    # weight[2 - y, 2 - x] = (3 (2 - y) + 2 - x) / 9, and the second channel is its negative.
    outputs = torch.tensor([[8.0, 7.0], [5.0, 4.0]])
    low, high = (127.5 * (1 - outputs / 8), 127.5 * (1 + outputs / 8))
    shown = images[FIRST][1]
    assert shown.shape == (3, 130, 130 + 3 + 66 + 3 + 66)  # grey comes back as RGB
    assert torch.equal(
        shown[0, 1:129, 1:129], blocks((data.arrays.inputs[0, 0] * 255).tolist(), 32)
    )
    assert torch.equal(shown[0, 1:65, 134:198], blocks(high.tolist(), 32))
    assert torch.equal(shown[0, 1:65, 203:267], blocks(low.tolist(), 32))
    assert bool((shown[:, 66:, 130:] == 255).all())  # below the lower, and between
    pooled = images[SECOND][1]  # 8 and -4 ninths, a pixel each
    assert pooled[0, 1, 133:].tolist() == [0, *[255] * 64, 0, *[255] * 3, 0, *[0] * 64, 0]


def test_filters_by_hand(tmp_path: Path) -> None:
    ((step, shown),) = look(tmp_path, Small(), pictures(), ImageSummaries())[
        "images/filters"
    ].items()
    weights = torch.arange(9.0).reshape(3, 3) / 8 * 255
    assert step == 1
    assert shown.shape == (3, 35, 35 + 3 + 35)
    assert torch.equal(shown[0, 1:34, 1:34], blocks(weights.tolist(), 11))
    assert torch.equal(shown[0, 1:34, 39:72], blocks((255 - weights).tolist(), 11))
    assert shown[0, 17, [0, 34, 35, 36, 37, 38, 72]].tolist() == [0, 0, 255, 255, 255, 0, 0]


def test_misclassified_images_by_hand(tmp_path: Path) -> None:
    data = pictures()
    shown = look(tmp_path, Small(), data, ImageSummaries())["images/misclassified"][1]
    # All are taken for dogs; of the first batch, rows 0 and 2 are none.
    tiles = (data.arrays.inputs[[0, 2]] * 255).round().byte().repeat_interleave(32, 2)
    tiles = tiles.repeat_interleave(32, 3)
    texts = ["true: cat\npredicted: dog", "true: owl\npredicted: dog"]
    labelled = [label(tile, text) for tile, text in zip(tiles, texts, strict=True)]
    assert torch.equal(shown, grid(torch.stack(labelled)))
    assert bool((shown[:, 1 + LABEL_PX : -1, 1:129] == tiles[0]).all())


def test_labels_are_drawn() -> None:
    drawn = label(torch.zeros(1, 2, 128, dtype=torch.uint8), "true: cat\npredicted: dog")
    assert drawn.shape == (3, LABEL_PX + 2, 128)
    dark = (drawn[0, :LABEL_PX] < 128).nonzero()
    assert bool((dark[:, 0] < LABEL_PX / 2).any())  # ink in both lines, none cut off below
    assert bool((dark[:, 0] > LABEL_PX / 2).any())
    assert int(dark[:, 0].max()) < LABEL_PX - 1


def test_surest_mistakes_come_first() -> None:
    scores = torch.tensor([[0.0, 5.0], [3.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 9.0]])
    batch = (torch.arange(5), torch.tensor([0, 0, 0, 0, 1]))
    for most, rows in {2: [0, 3], 3: [0, 3, 2]}.items():
        (found, true, predicted, _), cells = surest_mistakes(scores, batch, most)
        assert (found.tolist(), set(true.tolist()), set(predicted.tolist())) == (rows, {0}, {1})
    assert cells.tolist() == [1, 0, 1, 1, 3]
    (*_, probability), _ = surest_mistakes(scores, batch, 9)
    assert (probability >= 0).tolist() == [True, True, True, False, False]


def test_large_images_lose_pixels_and_small_ones_are_repeated() -> None:
    image = torch.arange(20).reshape(1, 1, 4, 5)
    assert resize(image, 2).tolist() == [[[[0, 2, 4], [10, 12, 14]]]]
    assert resize(image, 3).shape == (1, 1, 4, 5)
    assert resize(image, 5).shape == (1, 1, 8, 10)


def test_numbers_that_are_not_finite_are_shown_as_zero() -> None:
    values = torch.tensor([float("nan"), 1.0, float("inf"), -1.0]).reshape(1, 1, 2, 2)
    assert stretch(values).flatten().tolist() == [128, 255, 128, 0]
    assert stretch(torch.ones(1, 1, 1, 1)).tolist() == [[[[0]]]]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_other_precisions(tmp_path: Path, precision: str) -> None:
    assert look(tmp_path, Small(), pictures(), ImageSummaries(), precision=precision).keys() == ALL


def test_layers_of_a_compiled_network_are_seen(tmp_path: Path) -> None:
    model = Small()
    model.network.compile(backend="eager")
    images = look(tmp_path, model, pictures(), ImageSummaries(every_n_epochs=2), max_epochs=3)
    assert images.keys() == ALL
    assert list(images[FIRST]) == [1, 5]


class Stranger(LightningModule):
    """Somebody else's: two inputs, a dictionary as output, no class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, images: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"out": self.conv(images).mean((1, 2, 3)) * scale}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self(batch[0], batch[1].float())["out"].sum()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return dict(self(batch[0], batch[1].float()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_somebody_elses_model(tmp_path: Path) -> None:
    images = look(tmp_path, Stranger(), pictures(), ImageSummaries())
    assert images.keys() == {"images/augmented", "images/filters", "feature_maps/00_conv_conv"}


@pytest.mark.parametrize("channels", [2, 4])
def test_inputs_that_are_no_images(tmp_path: Path, channels: int) -> None:
    model = Small(channels)
    assert look(tmp_path, model, pictures(channels), ImageSummaries()) == {}
    assert not model.network.get_submodule("0")._forward_hooks


def test_no_hook_is_left(tmp_path: Path) -> None:
    callback, model = ImageSummaries(every_n_epochs=2), Small()
    look(tmp_path, model, pictures(), callback, max_epochs=2)
    assert not any(layer._forward_hooks for layer in model.modules())
    fit(tmp_path, Small(), pictures(), callback)  # and without TensorBoard none is made


class Failing(Small):
    """Fails in validation, once there are hooks."""

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        hooked = any(layer._forward_hooks for layer in self.modules())
        super().validation_step(batch, batch_idx)
        raise KeyError(hooked)


def test_hooks_are_removed_when_validation_fails(tmp_path: Path) -> None:
    model = Failing()
    with pytest.raises(KeyError, match="True"):
        look(tmp_path, model, pictures(), ImageSummaries(), num_sanity_val_steps=0)
    assert not any(layer._forward_hooks for layer in model.modules())


def test_training_is_the_same_without(tmp_path: Path) -> None:
    weights: list[dict[str, Tensor]] = []
    for callback in (ImageSummaries(every_n_epochs=1), ImageSummaries(every_n_epochs=10**6)):
        torch.manual_seed(0)
        model = Small(lr=0.1)
        look(tmp_path / str(len(weights)), model, pictures(), callback, max_epochs=3)
        weights.append(model.state_dict())
    torch.manual_seed(0)
    model = Small(lr=0.1)
    fit(tmp_path, model, pictures(), limit_val_batches=1.0, max_epochs=3)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[0][name])
        assert torch.equal(value, weights[1][name])


@pytest.mark.parametrize("name", ["every_n_epochs", "num_images"])
def test_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: 0 is not at least 1\.$"):
        ImageSummaries(**{name: 0})
