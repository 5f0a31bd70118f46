"""The weights of one network in PyTorch, in Paddle's layout, and in Paddle if it is there."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from lightkeel.use.paddle import Array, from_paddle, paddle_network, read, to_paddle, write

from .kept import Numbers
from .lab import trained

MLP = "--config table_mlp --trainer.max_epochs 10"
Compute = Callable[[Array], Array]  # (B, F) -> (B,)


def paddle(seed: int, more: str) -> Numbers:
    """Train a network, carry its weights over, and compare what it computes of 100 rows."""
    run = trained(f"{MLP} {more}", seed)
    layers = (nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    network = nn.Sequential(*layers, nn.Flatten(0))
    weights = {name.removeprefix("network."): w for name, w in run.weights.items()}
    network.load_state_dict(weights)
    state = carried_over(network)
    turned = {**state, "2.weight": state["2.weight"].T}  # 64 x 64: it fits the wrong way as well
    ways: dict[str, Compute] = {
        "in Paddle's layout, by NumPy": lambda rows: by_numpy(state, rows),
        "back in PyTorch": lambda rows: by_pytorch(from_paddle(state, network), rows),
        "`2.weight` not transposed": lambda rows: by_numpy(turned, rows),
    }
    if find_spec("paddle"):
        ways["Paddle itself"] = lambda rows: by_paddle(network, state, rows)
    rows = np.random.default_rng(seed).standard_normal((100, 10)).astype(np.float32)
    expected = by_pytorch(weights, rows)
    column = "largest difference of an output"
    scale = {"largest output": float(np.abs(expected).max())}
    return {
        label: {column: float(np.abs(compute(rows) - expected).max()), **scale}
        for label, compute in ways.items()
    }


def carried_over(network: nn.Sequential) -> dict[str, Array]:
    """Write the weights to a file as ``paddle.save`` does, and read it."""
    with TemporaryDirectory() as folder:
        write(Path(folder, "weights.pdparams"), to_paddle(network))
        return read(Path(folder, "weights.pdparams"))


def by_pytorch(weights: Mapping[str, Tensor], rows: Array) -> Array:
    """Compute the network: weights (out, in), x @ W.T + b."""
    x = torch.from_numpy(rows)
    for layer in ("0", "2", "4"):
        x = x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        x = x if layer == "4" else x.relu()
    return x.flatten().numpy()


def by_numpy(state: Mapping[str, Array], rows: Array) -> Array:
    """Compute the network as Paddle does: weights (in, out), x @ W + b."""
    x = rows
    for layer in ("0", "2", "4"):
        x = x @ state[f"{layer}.weight"] + state[f"{layer}.bias"]
        x = x if layer == "4" else np.maximum(x, 0)
    return x.flatten()


def by_paddle(network: nn.Sequential, state: Mapping[str, Array], rows: Array) -> Array:
    """Compute the network by Paddle."""
    from paddle import to_tensor

    same = paddle_network(network)
    same.set_state_dict(dict(state))
    same.eval()
    outputs: Array = same(to_tensor(rows)).numpy()
    return outputs
