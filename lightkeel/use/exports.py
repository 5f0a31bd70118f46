"""Trained models as files for other programs, each compared with the model it was made from."""

import json
import os
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ..errors.bad_input import InputError
from ..options.explain import explained
from ..runs.checkpoints import check_matches, save_model
from ..runs.find import Run
from ..runs.output import print_table
from . import paddle as paddle_weights
from .predictor import Predictor, build, load_run

Compute = Callable[[Tensor], Tensor]
BATCHES = (1, 2, 7)  # sizes of those that a file is compared on
TOLERANCE = 1e-4  # largest difference from the model, as a share of the largest output


@explained()
def export(found: Run, configs: Sequence[str], format_: str, output: Path, suffix: str) -> None:
    """Write the model of a run in a format, once the file has been compared with it.

    Args:
        found: The run, or a lone checkpoint or file of weights.
        configs: What the model of a lone file was trained with.
        format_: One of ``WRITERS``.
        output: The file.
        suffix: What files of the format end in.
    """
    if output.exists() and not output.is_file():
        raise InputError(f"--output {output}: is no file, but a device or a pipe. Choose another.")
    is_weights = found.checkpoint.suffix in READERS
    predictor = (load_weights if is_weights else load_run)(found, configs)
    predictor.to(memory_format=torch.contiguous_format)  # others are no plain array in a file
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=output.parent) as folder:
            part = Path(folder, f"part{suffix}")
            difference = compare(predictor, WRITERS[format_](predictor, part))
            if list(Path(folder).iterdir()) != [part]:  # as ONNX writes more than 2 GiB
                raise ValueError(f"--format {format_}: the model is too large for one file.")
            os.replace(part, output.resolve())
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror}).") from None
    rows = [("file", str(output)), ("size", f"{output.stat().st_size:,} bytes")]
    rows += [("made from", str(found.checkpoint))]
    rows += [("largest difference", f"{difference:.2g}, on {sum(BATCHES)} random samples")]
    print_table(f"{format_} export of {type(predictor.model).__name__}", rows)


def compare(predictor: Predictor, compute: Compute) -> float:
    """Return the largest difference between a file's outputs and the model's on random samples.

    Raises:
        ValueError: The model gives no numbers.
        RuntimeError: It is more than rounding explains.
    """
    largest = 0.0
    for number, size in enumerate(BATCHES):
        samples = predictor.random_samples(size, seed=number)
        expected, found = predictor(samples), compute(samples)
        if not expected.isfinite().all():
            raise ValueError("RUN: the model's outputs are NaN or infinite. Export another.")
        if expected.shape != found.shape:
            raise RuntimeError(f"The file gives {found.shape} in place of {expected.shape}.")
        difference = float((expected - found).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise RuntimeError(f"The file's outputs differ from the model's by {difference:.3g}.")
        largest = max(largest, difference)
    return largest


def write_onnx(predictor: Predictor, path: Path) -> Compute:
    """Write an ONNX file: ``samples`` in, ``probabilities`` or ``values`` out."""
    import onnxruntime

    names = ["values" if predictor.class_names is None else "probabilities"]
    samples, shapes = example(predictor)
    program = torch.onnx.export(
        *(predictor, (samples,)),
        input_names=["samples"],
        output_names=names,
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata(predictor))
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda samples: torch.from_numpy(session.run(names, {"samples": samples.numpy()})[0])


def write_torch(predictor: Predictor, path: Path) -> Compute:
    """Write a program of ``torch.export``."""
    samples, shapes = example(predictor)
    program = torch.export.export(predictor, (samples,), dynamic_shapes=shapes)
    torch.export.save(program, path, extra_files=metadata(predictor))
    compute: Compute = torch.export.load(path).module()
    return compute


def write_safetensors(predictor: Predictor, path: Path) -> Compute:
    """Write the weights of the model under their names in checkpoints."""
    from safetensors.torch import save

    weights = {name: value.contiguous() for name, value in predictor.model.state_dict().items()}
    path.write_bytes(save(weights, metadata(predictor)))
    again = deepcopy(predictor)
    again.model.load_state_dict(read_safetensors(path, again))
    return again


def write_paddle(predictor: Predictor, path: Path) -> Compute:
    """Write the weights of the network as a state dict of the same network in Paddle."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No ccache found")  # nothing is compiled here
        import paddle

    network = paddle_weights.network_of(predictor.model)
    paddle_weights.write(path, paddle_weights.to_paddle(network))
    same = paddle_weights.paddle_network(network)
    same.set_state_dict(paddle.load(str(path)))
    same.eval()

    def compute(samples: Tensor) -> Tensor:
        outputs = same(paddle.to_tensor(predictor.preprocess(samples).numpy()))
        return predictor.finish(torch.from_numpy(outputs.numpy()))

    return compute


def write_ckpt(predictor: Predictor, path: Path) -> Compute:
    """Write a checkpoint without what only training needs."""
    save_model(predictor.model, path, predictor.class_names)
    model = type(predictor.model).load_from_checkpoint(path, map_location="cpu", weights_only=True)
    return Predictor(model, predictor.preprocess, predictor.data)


def read_safetensors(path: Path, predictor: Predictor) -> dict[str, Tensor]:
    """Read weights under their names in the model, and the names of classes.

    Raises:
        ValueError: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            predictor.name_classes(json.loads((file.metadata() or {}).get("class_names", "null")))
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"RUN {path}: is no file of weights ({error}).") from None


def read_paddle(path: Path, predictor: Predictor) -> dict[str, Tensor]:
    """Read weights of the same network in Paddle, and name them as in the model.

    Raises:
        ValueError: They are of another network, or the file is damaged.
    """
    network = paddle_weights.network_of(predictor.model)
    state = paddle_weights.read(path)
    try:
        weights = paddle_weights.from_paddle(state, network)
    except ValueError as error:
        raise ValueError(f"RUN {path}: is not of this model: {error}") from None
    return {f"network.{name}": weight for name, weight in weights.items()}


READERS = {".safetensors": read_safetensors, ".pdparams": read_paddle}


def load_weights(found: Run, configs: Sequence[str]) -> Predictor:
    """Load the model of a configuration with the weights in a file."""
    predictor = build(found.options(configs))
    path, model = found.checkpoint, predictor.model
    weights = READERS[path.suffix](path, predictor)
    check_matches(path, {"state_dict": weights}, model)
    model.load_state_dict(weights)
    return predictor


def example(predictor: Predictor) -> tuple[Tensor, Any]:
    """Make samples to trace a model with, and say that their number may be any."""
    return predictor.random_samples(2), ({0: torch.export.Dim("batch")},)


def metadata(predictor: Predictor) -> dict[str, str]:
    """Say in strings what a file holds."""
    model = predictor.model
    settings = {name: value for name, value in model.hparams.items() if not name.startswith("_")}
    return {
        "model": type(model).__name__,
        "settings": json.dumps(settings),
        "class_names": json.dumps(predictor.class_names),
        "preprocessing": json.dumps(
            {name: value.tolist() for name, value in predictor.preprocess.named_buffers()}
        ),
    }


WRITERS: dict[str, Callable[[Predictor, Path], Compute]] = {
    "onnx": write_onnx,
    "torch": write_torch,
    "safetensors": write_safetensors,
    "paddle": write_paddle,
    "ckpt": write_ckpt,
}
