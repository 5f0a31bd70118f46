import pytest
import torch

from lightkeel.callbacks.confusion import Mistake
from lightkeel.callbacks.plots import caption, is_image


@pytest.mark.parametrize(
    ("shape", "image"), [((3, 8, 8), True), ((1, 8, 8), True), ((4, 8, 8), False), ((3, 8), False)]
)
def test_what_is_an_image(shape: tuple[int, ...], image: bool) -> None:
    assert is_image(torch.zeros(shape)) == image


def test_caption() -> None:
    mistake = Mistake(torch.zeros(1), target=1, predicted=0, probability=0.966)
    assert caption(mistake, ["cat", "dog"]) == "dog\n→ cat\n97 %"
