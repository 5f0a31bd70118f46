"""Muon against its definition, and SGD's part against torch's."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lightkeel.models.muon import NEWTON_SCHULZ, MuonSGD, newton_schulz, orthogonalized


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]


def set_gradients(given: list[nn.Parameter], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in given:
        parameter.grad = torch.randn(parameter.shape, generator=random)


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 7, 5), (1, 4, 4)])
@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_singular_values_follow_the_polynomial(shape: tuple[int, ...], num_steps: int) -> None:
    """The iteration keeps singular vectors, and maps each singular value by itself."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    s = s / s.norm(dim=1, keepdim=True)
    a, b, c = NEWTON_SCHULZ
    for _ in range(num_steps):
        s = a * s + b * s**3 + c * s**5
    expected = u @ torch.diag_embed(s) @ v
    torch.testing.assert_close(newton_schulz(matrices, num_steps), expected, atol=1e-5, rtol=1e-4)


def test_shapes_are_treated_apart() -> None:
    """Batching those of one shape changes neither values nor order."""
    updates = [p.data for p in parameters((4, 2, 3, 3), (2, 4, 1, 1), (4, 2, 3, 3), (4, 2, 3, 2))]
    together = orthogonalized(updates, 3)
    for update, found in zip(updates, together, strict=True):
        (alone,) = orthogonalized([update], 3)
        assert found.shape == update.shape
        torch.testing.assert_close(found, alone)


def test_a_step_of_a_weight() -> None:
    """Two steps by the definition, with matrices one by one."""
    (weight,) = parameters((4, 3, 2, 2))
    optimizer = MuonSGD([weight], lr=0.5, momentum=0.6, weight_decay=9.0)
    expected, momentum = weight.detach().clone(), torch.zeros(4, 12)
    for seed in (1, 2):
        set_gradients([weight], seed)
        assert weight.grad is not None
        gradient = weight.grad.reshape(4, 12)
        momentum = 0.6 * momentum + gradient
        direction = newton_schulz((gradient + 0.6 * momentum)[None], 3)[0]
        expected = expected * 2 / expected.norm()  # sqrt(4)
        expected = expected - 0.5 * direction.reshape(4, 3, 2, 2)
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected)


def test_other_parameters_take_steps_of_sgd() -> None:
    shapes = ((3, 4), (5,), ())
    mine, theirs = parameters(*shapes), parameters(*shapes)

    def groups(given: list[nn.Parameter]) -> list[dict[str, Any]]:
        return [{"params": given[:1], "lr": 0.2}, {"params": given[1:]}]

    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.3}
    optimizers = (
        MuonSGD(groups(mine), sgd_momentum=0.9, **settings),
        SGD(groups(theirs), momentum=0.9, nesterov=True, **settings),
    )
    for seed in (1, 2, 3):
        for given, optimizer in zip((mine, theirs), optimizers, strict=True):
            set_gradients(given, seed)
            optimizer.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_parameters_without_gradient_stay() -> None:
    given = parameters((2, 2, 1, 1), (3,))
    before = [p.detach().clone() for p in given]
    optimizer = MuonSGD(given)
    assert optimizer.step(lambda: 2.5) == 2.5
    assert all(torch.equal(p, b) for p, b in zip(given, before, strict=True))
    assert not optimizer.state


def test_momenta_are_in_the_state() -> None:
    mine, other = parameters((2, 2, 1, 1), (3,)), parameters((2, 2, 1, 1), (3,))
    first, second = MuonSGD(mine), MuonSGD(other)
    set_gradients(mine, 1)
    first.step()
    for a, b in zip(mine, other, strict=True):
        b.data = a.detach().clone()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for given, optimizer in ((mine, first), (other, second)):
        set_gradients(given, 2)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


@pytest.mark.parametrize("name", ["lr", "momentum", "sgd_momentum", "weight_decay", "ns_steps"])
def test_negative_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: -1 is negative"):
        MuonSGD(parameters((1,)), **{name: -1})
