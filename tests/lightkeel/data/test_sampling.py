from itertools import chain

import pytest
import torch

from lightkeel.data import philox
from lightkeel.data.sampling import EvaluationSampler, TrainingSampler, balancing_weights


def batches(sampler: TrainingSampler | EvaluationSampler) -> list[list[int]]:
    return [batch.tolist() for batch in sampler]


def global_batches(num_ranks: int, epoch: int = 3, seed: int = 5) -> list[list[int]]:
    """Batches of 8 of 29 samples, the ranks' parts joined and those of weight 0 left out."""
    joined: list[list[int]] = [[] for _ in range(4)]
    for rank in range(num_ranks):
        sampler = TrainingSampler(29, 8, num_ranks, rank, seed)
        sampler.set_epoch(epoch)
        for number, batch in enumerate(sampler):
            whole, part = sampler.sizes(number)
            assert whole == (8, 8, 8, 5)[number]
            assert len(batch) == max(part, 1)
            joined[number] += batch.tolist()[:part]
    return joined


def test_training_batches_are_the_same_on_any_number_of_ranks() -> None:
    alone = global_batches(1)
    assert [len(batch) for batch in alone] == [8, 8, 8, 5]
    assert sorted(chain(*alone)) == list(range(29))
    for num_ranks in (2, 4, 8):
        assert global_batches(num_ranks) == alone
    assert global_batches(1, epoch=4) != alone
    assert global_batches(1, seed=0) != alone


@pytest.mark.parametrize(
    ("num_samples", "num_ranks", "drop_last", "expected", "sizes"),
    [
        (7, 1, False, [[[0, 1, 2, 3], [4, 5, 6]]], [[(4, 4), (3, 3)]]),
        (7, 1, True, [[[0, 1, 2, 3]]], [[(4, 4)]]),
        (8, 1, True, [[[0, 1, 2, 3], [4, 5, 6, 7]]], [[(4, 4), (4, 4)]]),
        (3, 1, True, [[]], [[]]),
        (
            7,
            2,
            False,
            [[[0, 1], [4, 5]], [[2, 3], [6]]],
            [[(4, 2), (3, 2)], [(4, 2), (3, 1)]],
        ),
        (
            6,
            4,
            False,
            [[[0], [4]], [[1], [5]], [[2], [4]], [[3], [4]]],
            [[(4, 1), (2, 1)], [(4, 1), (2, 1)], [(4, 1), (2, 0)], [(4, 1), (2, 0)]],
        ),
    ],
)
def test_training_batches_written_out(
    num_samples: int,
    num_ranks: int,
    drop_last: bool,
    expected: list[list[list[int]]],
    sizes: list[list[tuple[int, int]]],
) -> None:
    for rank in range(num_ranks):
        sampler = TrainingSampler(
            num_samples, 4, num_ranks, rank, shuffle=False, drop_last=drop_last
        )
        assert batches(sampler) == expected[rank]
        assert len(sampler) == len(expected[rank])
        assert [sampler.sizes(batch) for batch in range(len(sampler))] == sizes[rank]


def test_shuffled_batches_written_out() -> None:
    sampler = TrainingSampler(8, 3, seed=0)
    assert batches(sampler) == [[3, 4, 0], [7, 2, 6], [1, 5]]
    sampler.set_epoch(1)
    assert batches(sampler) == [[6, 2, 1], [7, 3, 5], [4, 0]]


def test_the_pass_after_a_resumed_one_is_whole() -> None:
    sampler = TrainingSampler(5, 2, shuffle=False)
    sampler.first_batch = 2
    assert batches(sampler) == [[4]]
    assert batches(sampler) == [[0, 1], [2, 3], [4]]


def test_balancing_weights() -> None:
    weights = balancing_weights(torch.tensor([0, 0, 3, 0, 1, 3]))
    torch.testing.assert_close(weights * 6, torch.tensor([2, 2, 3, 2, 6, 3]).double())
    with pytest.raises(ValueError, match=r"^weighted_sampling: balances classes, but the targets "):
        balancing_weights(torch.tensor([0.5]))


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        (balancing_weights(torch.tensor([0] * 90 + [1] * 8 + [2] * 2)), [1 / 3, 1 / 3, 1 / 3]),
        (torch.tensor([1.0] * 90 + [0.0] * 8 + [15.0] * 2), [90 / 120, 0, 30 / 120]),
    ],
)
def test_weighted_sampling_draws_in_proportion(weights: torch.Tensor, shares: list[float]) -> None:
    """Over 200 epochs each class comes up n p times, within 4 standard deviations."""
    labels = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    sampler = TrainingSampler(100, 7, weights=weights)
    drawn = []
    for epoch in range(200):
        sampler.set_epoch(epoch)
        drawn.append(sampler.order())
    n = 200 * 100
    counts = torch.bincount(labels[torch.cat(drawn)], minlength=3).tolist()
    for count, p in zip(counts, shares, strict=True):
        assert abs(count - n * p) <= 4 * (n * p * (1 - p)) ** 0.5
    assert not torch.equal(drawn[0], drawn[1])
    assert len({len(order) for order in drawn}) == 1


def test_weight_0_is_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(philox, "uniform", lambda num, *_: torch.zeros(num, 4))
    assert TrainingSampler(3, 3, weights=torch.tensor([0.0, 1.0, 1.0])).order().tolist() == [1] * 3


def test_weighted_sampling_without_shuffle_repeats_itself() -> None:
    sampler = TrainingSampler(100, 7, shuffle=False, weights=torch.ones(100))
    first = batches(sampler)
    sampler.set_epoch(1)
    assert batches(sampler) == first


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("batch_size_per_rank", [1, 2, 5])
def test_evaluation_counts_every_sample_once(num_ranks: int, batch_size_per_rank: int) -> None:
    batch_size = batch_size_per_rank * num_ranks
    for num_samples in range(num_ranks, 45):
        ranks = [EvaluationSampler(num_samples, batch_size, num_ranks, r) for r in range(num_ranks)]
        served = [batches(sampler) for sampler in ranks]
        assert sorted(chain(*chain(*served))) == list(range(num_samples))
        assert {len(rank) for rank in served} == {len(sampler) for sampler in ranks}
        assert len({len(rank) for rank in served}) == 1
        lengths = [len(batch) for rank in served for batch in rank]
        assert min(lengths) >= 1
        no_room = num_samples // num_ranks < -(-num_samples // batch_size)
        assert max(lengths) <= batch_size_per_rank + no_room


def test_evaluation_batches_written_out() -> None:
    assert batches(EvaluationSampler(8, 4)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert batches(EvaluationSampler(7, 4)) == [[0, 1, 2, 3], [4, 5, 6]]
    assert batches(EvaluationSampler(7, 4, 2, 0)) == [[0, 1], [2, 3]]
    assert batches(EvaluationSampler(7, 4, 2, 1)) == [[4, 5], [6]]


def test_fewer_samples_than_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^3 samples cannot be shared by 4 devices\.$"):
        EvaluationSampler(3, 4, 4, 0)
