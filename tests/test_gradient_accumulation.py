from pathlib import Path

import pytest
import torch

from src.callbacks import GradientAccumulation
from tests.line import trained


@pytest.mark.parametrize(
    ("targets", "batches", "steps"),
    [
        ([1.0, 2.0, 3.0, 6.0], 1, [[1], [2], [3], [6]]),
        ([1.0, 2.0, 3.0, 6.0], 2, [[1, 2], [3, 6]]),
        ([1.0, 2.0, 6.0], 2, [[1, 2], [6]]),  # the shorter last step has a whole step's weight
        ([1.0, 2.0, 3.0], 16, [[1, 2, 3]]),
    ],
)
def test_step_is_that_of_one_larger_batch(
    tmp_path: Path, targets: list[float], batches: int, steps: list[list[float]]
) -> None:
    """Where x = 1 and lr = 1, a step moves w by twice its distance to the mean of the targets."""
    x = torch.ones(len(targets), 1)
    found = trained(tmp_path, x, torch.tensor(targets), GradientAccumulation(batches))
    weight = 0.0
    for step in steps:
        weight -= 2 * (weight - sum(step) / len(step))
    assert found == pytest.approx([weight])


def test_effective_batch_size_comes_alone() -> None:
    with pytest.raises(ValueError, match=r"^effective_batch_size: cannot be combined with batches"):
        GradientAccumulation(batches=2, effective_batch_size=64)
