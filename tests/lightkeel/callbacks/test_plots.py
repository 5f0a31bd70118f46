import torch

from lightkeel.callbacks.confusion import Mistake
from lightkeel.callbacks.plots import caption


def test_caption() -> None:
    mistake = Mistake(torch.zeros(1), target=1, predicted=0, probability=0.966)
    assert caption(mistake, ["cat", "dog"]) == "dog\n→ cat\n97 %"
