from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightkeel import whitening_filters
from src.data import SyntheticImageDataModule
from src.models import FastCNN
from src.models.fast_cnn import BatchNorm, group
from tests.lightkeel.fitting import Given, fit

SMALL: dict[str, Any] = {"widths": [8, 8, 8], "test_time": "none"}
OPTIMIZER = {"name": "SGD", "lr": 0.5, "momentum": 0.85, "nesterov": True}


def data(**settings: Any) -> SyntheticImageDataModule:
    sizes = {"num_samples": 256, "num_val_samples": 64, "num_test_samples": 10, "num_classes": 4}
    return SyntheticImageDataModule(**{**sizes, "batch_size": 32, "noise_std": 0.5, **settings})


def test_is_the_network_of_the_paper() -> None:
    model = FastCNN()
    # 24*12 + 24; 3x3 convolutions 24-64-64-256-256-256-256 and their biases; 256*10
    widths = [24, 64, 64, 256, 256, 256, 256]
    convolutions = sum(9 * a * b + b for a, b in pairwise(widths))
    assert sum(p.numel() for p in model.parameters()) == 312 + convolutions + 2560
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert not model.whitening.weight.requires_grad
    assert not any("whitening" in name for name in model.state_dict())


@pytest.mark.parametrize("image_size_px", [26, 32, 64])
def test_sizes_follow_from_the_image(image_size_px: int) -> None:
    model = FastCNN(num_classes=3, image_size_px=image_size_px, **SMALL)
    assert model(torch.zeros(2, 3, image_size_px, image_size_px)).shape == (2, 3)


def test_whitening_decorrelates_patches() -> None:
    """With a vanishing eps the outputs have the identity as covariance, but for the negatives."""
    torch.manual_seed(0)
    smooth = torch.randn(200, 3, 12, 12).cumsum(2).cumsum(3)
    images = smooth - smooth.mean()
    filters = whitening_filters(images, 2, 1e-9)
    assert filters.shape == (24, 3, 2, 2)
    assert torch.equal(filters[12:], -filters[:12])
    outputs = torch.conv2d(images, filters[:12]).permute(1, 0, 2, 3).flatten(1)
    covariance = outputs @ outputs.T / outputs.shape[1]
    torch.testing.assert_close(covariance, torch.eye(12), atol=2e-2, rtol=0)
    # of the greatest variance first: those filters are the smallest
    norms = filters[:12].flatten(1).norm(dim=1)
    assert torch.equal(norms.sort().values, norms)


def test_first_layer_whitens_the_training_images(tmp_path: Path) -> None:
    model = FastCNN(num_classes=4, whiten_bias_epochs=1, **SMALL, optimizer=OPTIMIZER)
    served = data(augment={"random_crop": {"pad_px": 2}})
    fit(tmp_path, model, served, max_epochs=1)
    images = served.training_images(5000)
    assert images.shape == (256, 3, 32, 32)
    torch.testing.assert_close(model.whitening.weight.data, whitening_filters(images, 2, 5e-4))
    bias = model.whitening.bias
    assert bias is not None
    assert bias.abs().max() < 0.5


def test_bias_of_the_first_layer_is_frozen_in_time(tmp_path: Path) -> None:
    found = []
    for epochs in (1, 2, 3):
        torch.manual_seed(0)
        model = FastCNN(num_classes=4, whiten_bias_epochs=2, **SMALL, optimizer=OPTIMIZER)
        fit(tmp_path, model, data(seed=0), max_epochs=epochs)
        assert model.whitening.bias is not None
        found.append(model.whitening.bias.detach().clone())
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


def test_resumed_run_keeps_its_whitening(tmp_path: Path) -> None:
    model = FastCNN(num_classes=4, **SMALL, optimizer=OPTIMIZER)
    trainer = fit(tmp_path, model, data(seed=0), max_epochs=1)
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    other = FastCNN(num_classes=4, **SMALL, optimizer=OPTIMIZER)
    fit(tmp_path, other, data(seed=5), ckpt_path=path, max_epochs=2)
    assert torch.equal(other.whitening.weight, model.whitening.weight)


def test_convolutions_begin_as_partial_identities() -> None:
    block = FastCNN(**SMALL).network.get_submodule("2")
    first, second = (layer for layer in block.modules() if isinstance(layer, nn.Conv2d))
    images = torch.randn(2, 8, 6, 6)
    assert torch.equal(second(images), images)
    assert first.weight.shape == (8, 24, 3, 3)


def test_batch_norm_has_a_bias_and_no_scale() -> None:
    norm = BatchNorm(2).train()
    norm.bias.data = torch.tensor([1.0, -2.0])
    images = torch.randn(50, 2, 8, 8) * 3 + 4
    outputs = norm(images)
    torch.testing.assert_close(outputs.mean((0, 2, 3)), norm.bias.data, atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.var((0, 2, 3)), torch.ones(2), atol=1e-3, rtol=0)
    assert [name for name, _ in norm.named_parameters()] == ["bias"]
    # Running statistics: 0.6 of those before, 0.4 of the batch's.
    expected = 0.4 * images.mean((0, 2, 3))
    torch.testing.assert_close(norm.norm.running_mean, expected)
    assert group(3, 4)(torch.zeros(1, 3, 9, 9)).shape == (1, 4, 4, 4)


def test_views_in_evaluation() -> None:
    torch.manual_seed(0)
    plain = FastCNN(**SMALL).eval()
    images = torch.randn(3, 3, 32, 32)
    views: list[torch.Tensor] = []
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    for view in (images, padded[:, :, :32, :32], padded[:, :, 2:, 2:]):
        views += [plain.network(view), plain.network(view.flip(3))]
    expected = {
        "none": views[0],
        "mirror": (views[0] + views[1]) / 2,
        "translate": (views[0] + views[1]) / 4 + sum(views[2:]) / 8,
    }
    for test_time, outputs in expected.items():
        plain.test_time = test_time  # type: ignore[assignment]
        torch.testing.assert_close(plain(images), outputs)
    # Only those are shifted whose best class, seen without, is at most so probable.
    best = ((views[0] + views[1]) / 2).softmax(1).amax(1).detach()
    plain.sure_above = float(best.median())
    kept = best > best.median()
    assert kept.sum() == 1
    mixed = torch.where(kept[:, None], expected["mirror"], expected["translate"])
    torch.testing.assert_close(plain(images), mixed)
    plain.train()
    torch.testing.assert_close(plain(images), plain.network(images))


def test_learns_from_few_images(tmp_path: Path) -> None:
    """Four noisy patterns, told apart by chance in a quarter of the cases."""
    torch.manual_seed(0)
    model = FastCNN(num_classes=4, **SMALL, optimizer=OPTIMIZER)
    trainer = fit(tmp_path, model, data(seed=0), max_epochs=4, limit_val_batches=None)
    assert trainer.callback_metrics["val/acc"] > 0.9


def test_data_without_images_is_refused(tmp_path: Path) -> None:
    model = FastCNN(**SMALL)
    given = Given(torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^data: FastCNN whitens images, and this data has none"):
        fit(tmp_path, model, given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": [4, 4]}, "widths: [4, 4] are not three."),
        ({"widths": [4, 0, 4]}, "widths[1]: 0 is not at least 1."),
        ({"image_size_px": 25}, "image_size_px: 25 is not at least 26."),
        ({"label_smoothing": 1.0}, "label_smoothing: 1.0 is not in [0, 1)."),
        ({"whiten_bias_epochs": -1}, "whiten_bias_epochs: -1 is not at least 0."),
        ({"sure_above": 1.5}, "sure_above: 1.5 is not in [0, 1]."),
        ({"test_time": "x"}, "test_time: 'x' is none of `none`, `mirror`, `translate`."),
    ],
)
def test_constructor_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        FastCNN(**settings)
    assert str(error.value) == message
