"""What all tests share."""

import pytest

from lightkeel.testing import restored_environment as restored_environment


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tensors are tiny here, and another process may want the other core."""
    import torch  # not where pytest-xdist only hands out tests

    torch.set_num_threads(1)
