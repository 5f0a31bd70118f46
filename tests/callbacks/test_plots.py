import pytest
import torch

from src.callbacks.confusion import Mistake
from src.callbacks.plots import caption, is_image, pixels


def test_images_of_data_that_does_not_tell_how() -> None:
    """Each spans all brightness: one from -1 to 4, one without contrast; grey becomes colour."""
    inputs = [torch.tensor([[[-1.0, 0.0, 4.0]]]), torch.full((1, 1, 3), 7.0)]
    found = pixels(inputs, data=None)
    assert found.dtype == torch.uint8
    assert found.tolist() == [[[[0] * 3, [51] * 3, [255] * 3]], [[[0] * 3] * 3]]


@pytest.mark.parametrize(
    ("shape", "image"), [((3, 8, 8), True), ((1, 8, 8), True), ((4, 8, 8), False), ((3, 8), False)]
)
def test_what_is_an_image(shape: tuple[int, ...], image: bool) -> None:
    assert is_image(torch.zeros(shape)) == image


def test_caption() -> None:
    mistake = Mistake(torch.zeros(1), target=1, predicted=0, probability=0.966)
    assert caption(mistake, ["cat", "dog"]) == "dog\n→ cat\n97 %"
