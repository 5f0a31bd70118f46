import pytest
import torch

from lightkeel.data import philox

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            (ONES, ONES),
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_random123(counter: str, key: tuple[int, int], expected: str) -> None:
    words = tuple(torch.tensor([int(word, 16)]) for word in counter.split())
    assert " ".join(f"{word.item():08x}" for word in philox.philox(words, key)) == expected


def test_words_are_those_of_index_epoch_purpose_and_seed() -> None:
    drawn = philox.words(3, seed=(7 << 32) + 5, epoch=2, purpose="order")
    counter = (torch.tensor([2]), 0, 2, 0xF5299398)  # CRC-32 of b"order"
    assert [word[2] for word in drawn] == [word[0] for word in philox.philox(counter, (5, 7))]


def test_orders_never_change() -> None:
    """Runs are resumed and repeated by these orders, so new code must draw the same."""
    assert philox.permutation(8, 0, 0, "order").tolist() == [3, 4, 0, 7, 2, 6, 1, 5]
    assert philox.permutation(8, 1, 0, "order").tolist() == [4, 3, 6, 5, 7, 2, 1, 0]


@pytest.mark.parametrize("num", [0, 1, 2, 1000])
def test_permutation_holds_every_index_once(num: int) -> None:
    assert philox.permutation(num, 3, 1, "order").sort().values.tolist() == list(range(num))


def test_permutation_differs_by_seed_epoch_and_purpose() -> None:
    settings = [(0, 0, "a"), (1, 0, "a"), (2**32, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    orders = {tuple(philox.permutation(20, *setting).tolist()) for setting in settings}
    assert len(orders) == len(settings)


def test_permutation_is_fair() -> None:
    """Each of the 6 orders of 3 comes up n / 6 times, within 4 standard deviations."""
    n = 1200
    orders = [tuple(philox.permutation(3, 0, epoch, "order").tolist()) for epoch in range(n)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert max(abs(count - n / 6) for count in counts) < 4 * (n * 1 / 6 * 5 / 6) ** 0.5


def test_uniform_is_uniform() -> None:
    n = 10_000
    draws = philox.uniform(n, 0, 0, "crop").double()
    assert draws.min() >= 0
    assert draws.max() < 1
    assert torch.equal(draws * 2**24, (draws * 2**24).round())
    # 4 standard deviations of the mean, and of the mean of squares (variance 1/5 - 1/9)
    assert (draws.mean(0) - 1 / 2).abs().max() < 4 * (1 / 12 / n) ** 0.5
    assert (draws.square().mean(0) - 1 / 3).abs().max() < 4 * (4 / 45 / n) ** 0.5
    assert torch.corrcoef(draws.T).fill_diagonal_(0).abs().max() < 4 / n**0.5
    assert torch.equal(philox.uniform(5, 0, 0, "crop"), draws[:5].float())
