import pytest
import torch

from src.models import SimpleCNN


def test_default_is_the_network_of_the_tutorials() -> None:
    model = SimpleCNN()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    # 3*32*9 + 32, 32*64*9 + 64, 2304*128 + 128, 128*10 + 10
    assert sum(p.numel() for p in model.parameters()) == 896 + 18496 + 295040 + 1290


def test_sizes_follow_from_the_image() -> None:
    model = SimpleCNN(image_size_px=28, in_channels=1, channels=[8], num_classes=7)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
    # 1*8*9 + 8, 8*13*13*128 + 128, 128*7 + 7
    assert sum(p.numel() for p in model.parameters()) == 80 + 173184 + 903


def test_image_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^image_size_px: 9 is too small for 2 convolutions"):
        SimpleCNN(image_size_px=9)
