"""Weights for PaddlePaddle and from there: what has another name or shape in its layers.

A ``.pdparams`` file, as ``paddle.save`` writes it, is a pickled dictionary of NumPy arrays.
"""

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .predictor import Predictor

Array = np.ndarray[Any, Any]
PLACES = ("stride", "padding", "dilation", "groups")
# Layers that both frameworks have, the name in Paddle, and what it takes there, in order.
LAYERS: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.Linear: ("Linear", ("in_features", "out_features")),
    nn.Conv2d: ("Conv2D", ("in_channels", "out_channels", "kernel_size", *PLACES)),
    nn.BatchNorm2d: ("BatchNorm2D", ("num_features",)),
    nn.MaxPool2d: ("MaxPool2D", ("kernel_size", "stride", "padding")),
    nn.ReLU: ("ReLU", ()),
    nn.Tanh: ("Tanh", ()),
    nn.Identity: ("Identity", ()),
    nn.Flatten: ("Flatten", ("start_dim", "end_dim")),
    nn.Dropout: ("Dropout", ("p",)),
}
PADDLE_NAMES = {"running_mean": "_mean", "running_var": "_variance"}
# All that arrays are made of in a pickle; anything else could run code.
HARMLESS = {
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *(("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")),
}


class ArraysOnly(pickle.Unpickler):
    """Read a pickle that holds NumPy arrays and plain values, and refuse all others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"holds `{module}.{name}`, which could run code")
        return super().find_class(module, name)


def export(predictor: Predictor, path: Path) -> Callable[[Tensor], Tensor]:
    """Write the weights of the network as a state dict of the same network in Paddle."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No ccache found")  # nothing is compiled here
        import paddle

    network = network_of(predictor.model)
    write(path, to_paddle(network))
    same = paddle_network(network)
    same.set_state_dict(paddle.load(str(path)))
    same.eval()

    def compute(samples: Tensor) -> Tensor:
        outputs = same(paddle.to_tensor(predictor.preprocess(samples).numpy()))
        return predictor.finish(torch.from_numpy(outputs.numpy()))

    return compute


def read_weights(path: Path, model: nn.Module) -> dict[str, Any]:
    """Read weights of the same network in Paddle as a checkpoint, named as in the model."""
    network, state = network_of(model), read(path)
    try:
        weights = from_paddle(state, network)
    except ValueError as error:
        raise ValueError(f"RUN {path}: is not of this model: {error}") from None
    return {"state_dict": {f"network.{name}": weight for name, weight in weights.items()}}


def network_of(model: nn.Module) -> nn.Sequential:
    """Return the network of a model, if it is a sequence of layers that Paddle has too."""
    network, what = getattr(model, "network", None), "is no sequence"
    if isinstance(network, nn.Sequential):
        odd = [type(layer).__name__ for layer in network if type(layer) not in LAYERS]
        if not odd:
            return network
        what = f"has a layer {odd[0]}"
    known = ", ".join(layer.__name__ for layer in LAYERS)
    raise ValueError(f"model: the network {what}. For Paddle, it is to be made of {known}.")


def to_paddle(network: nn.Sequential) -> dict[str, Array]:
    """Translate the weights of a network: those of linear layers (out, in) -> (in, out)."""
    return {name: tensor.numpy(force=True).copy() for _, name, tensor, _ in _weights(network)}


def from_paddle(state: Mapping[str, Any], network: nn.Sequential) -> dict[str, Tensor]:
    """Translate weights back, for a network of the same layers."""
    found, known = dict(network.state_dict()), {"StructuredToParameterName@@"}
    for name, theirs, tensor, is_turned in _weights(network):
        array, wanted = state.get(theirs), tuple(tensor.shape)
        if not isinstance(array, np.ndarray) or array.shape != wanted or array.dtype.kind != "f":
            shape = getattr(array, "shape", "missing")
            raise ValueError(f"`{theirs}` is {shape} there and {wanted} here.")
        weight = torch.from_numpy(array.astype(np.float32))
        found[name] = weight.T if is_turned else weight
        known.add(theirs)
    for name in state:
        if name not in known:
            raise ValueError(f"`{name}` is there, and the model has no such weight.")
    return found


def _weights(network: nn.Sequential) -> Iterator[tuple[str, str, Tensor, bool]]:
    """List weights: name here and in Paddle, tensor as in Paddle, and whether it is transposed."""
    for name, tensor in network.state_dict().items():
        layer, _, kind = name.rpartition(".")
        is_turned = isinstance(network.get_submodule(layer), nn.Linear) and kind == "weight"
        if kind != "num_batches_tracked":  # Paddle does not count them
            theirs = f"{layer}.{PADDLE_NAMES.get(kind, kind)}"
            yield name, theirs, tensor.T if is_turned else tensor, is_turned


def write(path: Path, state: Mapping[str, Array]) -> None:
    """Write weights as ``paddle.load`` reads them."""
    with path.open("wb") as file:
        pickle.dump(dict(state), file, protocol=4)


def read(path: Path) -> dict[str, Any]:
    """Read a file that ``write`` or ``paddle.save`` has written; refuse what would run code."""
    try:
        with path.open("rb") as file:
            state = ArraysOnly(file).load()
    except Exception as error:  # noqa: BLE001 - whatever a damaged pickle runs into
        raise ValueError(f"RUN {path}: is no file of weights ({str(error)[:80]}).") from None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"RUN {path}: is no file of weights: no names.")
    return state


def paddle_network(network: nn.Sequential) -> Any:
    """Make the same network in Paddle, a ``paddle.nn.Sequential`` with its own first weights."""
    from paddle import nn as paddle_nn

    layers = []
    for layer in network:
        name, settings = LAYERS[type(layer)]
        values = [getattr(layer, setting) for setting in settings]
        if isinstance(layer, nn.BatchNorm2d):
            # Paddle's momentum is what stays of the old value, PyTorch's what comes of the new.
            values += [1 - (layer.momentum or 0.0), layer.eps]
        without_bias = isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is None
        options = {"bias_attr": False} if without_bias else {}
        layers.append(getattr(paddle_nn, name)(*values, **options))
    return paddle_nn.Sequential(*layers)
