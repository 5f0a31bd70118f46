"""Muon for the weights of convolutions, SGD for all else."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Of the polynomial a x + b x^3 + c x^5, which drives singular values in (0, 1] to about one
# quickly, rather than closely (Jordan et al. 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class MuonSGD(Optimizer):
    """Step along orthogonalized momentum where a parameter is a convolution's weight.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), as in their
    CIFAR-10 records: a weight (C', C, K, K) counts as the matrix (C', C K K), and is scaled to the
    norm sqrt(C') before each step. Others take steps of SGD. Both use Nesterov's momentum.

    Args:
        params: Parameters, or groups of them.
        lr: Of a step whose matrix has singular values near one; of SGD, as in ``torch.optim.SGD``.
        momentum: Of convolutions' weights.
        sgd_momentum: Of the others.
        weight_decay: Of the others: added to the gradient, times the parameter.
        ns_steps: Newton-Schulz iterations that orthogonalize.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.24,
        momentum: float = 0.6,
        sgd_momentum: float = 0.85,
        weight_decay: float = 0.0,
        ns_steps: int = 3,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "sgd_momentum": sgd_momentum}
        settings |= {"weight_decay": weight_decay, "ns_steps": ns_steps}
        for name, value in settings.items():
            if value < 0:
                raise ValueError(f"{name}: {value} is negative.")
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = torch.enable_grad()(closure)() if closure else None
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            weights = [p for p in given if p.ndim == 4]
            others = [p for p in given if p.ndim != 4]
            if weights:
                updates = self._momentum(weights, group["momentum"], 0.0)
                for weight in weights:
                    weight.mul_(len(weight) ** 0.5 / weight.norm().clamp(min=1e-7))
                updates = orthogonalized(updates, group["ns_steps"])
                torch._foreach_add_(weights, updates, alpha=-group["lr"])
            if others:
                updates = self._momentum(others, group["sgd_momentum"], group["weight_decay"])
                torch._foreach_add_(others, updates, alpha=-group["lr"])
        return loss

    def _momentum(self, parameters: list[Tensor], factor: float, decay: float) -> list[Tensor]:
        """Update the momenta, and return gradients with Nesterov's look ahead."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_mul_(momenta, factor)
        torch._foreach_add_(momenta, gradients)
        return list(torch._foreach_add(gradients, momenta, alpha=factor))


def orthogonalized(updates: list[Tensor], num_steps: int) -> list[Tensor]:
    """Bring the singular values of updates (R, ...) near one, those of one shape all at once."""
    results = list(updates)
    for shape in {update.shape for update in updates}:
        members = [i for i, update in enumerate(updates) if update.shape == shape]
        matrices = torch.stack([updates[i].flatten(1) for i in members])
        for i, matrix in zip(members, newton_schulz(matrices, num_steps), strict=True):
            results[i] = matrix.reshape(shape)
    return results


def newton_schulz(matrices: Tensor, num_steps: int) -> Tensor:
    """Iterate towards the nearest orthogonal matrices: (N, R, C) -> (N, R, C)."""
    a, b, c = NEWTON_SCHULZ
    # Eight bits of precision do, and GPUs have fast units for them.
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return found
