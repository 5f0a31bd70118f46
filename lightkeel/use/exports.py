"""Trained models as files for other programs, each compared with the model it was made from."""

import json
import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ..errors.bad_input import InputError
from ..errors.explain import explained
from ..runs.checkpoints import save_model, trained_state
from ..runs.find import Run
from ..runs.output import print_table
from . import paddle
from .predictor import Predictor, load_run

Compute = Callable[[Tensor], Tensor]
BATCHES = (1, 2, 7)  # sizes of those that a file is compared on
ANY_NUMBER = ({0: torch.export.Dim("batch")},)  # of samples
TOLERANCE = 1e-4  # largest difference from the model, as a share of the largest output


@explained()
def export(found: Run, configs: Sequence[str], format_: str, output: Path, suffix: str) -> None:
    """Write the model of a run or a lone file in a format, once it has been compared with that."""
    if output.exists() and not output.is_file():
        raise InputError(f"--output {output}: is no file, but a device or a pipe. Choose another.")
    predictor = load_run(found, configs, READERS.get(found.checkpoint.suffix))
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
    rows = {
        "size": f"{output.stat().st_size:,} bytes",
        "largest difference": f"{difference:.2g}, on {sum(BATCHES)} random samples",
    }
    paths = {"file": str(output), "made from": str(found.checkpoint)}
    title = f"{format_} export of {type(predictor.model).__name__}"
    print_table(title, rows.items(), paths=paths)


def compare(predictor: Predictor, compute: Compute) -> float:
    """Return the largest difference between a file's outputs and the model's on random samples."""
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
    options: dict[str, Any] = {"output_names": names, "dynamic_shapes": ANY_NUMBER, "dynamo": True}
    samples = (predictor.random_samples(2),)
    program: Any = torch.onnx.export(
        predictor, samples, input_names=["samples"], verbose=False, **options
    )
    program.model.metadata_props.update(metadata(predictor))
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda samples: torch.from_numpy(session.run(names, {"samples": samples.numpy()})[0])


def write_torch(predictor: Predictor, path: Path) -> Compute:
    """Write a program of ``torch.export``."""
    samples = (predictor.random_samples(2),)
    program = torch.export.export(predictor, samples, dynamic_shapes=ANY_NUMBER)
    torch.export.save(program, path, extra_files=metadata(predictor))
    compute: Compute = torch.export.load(path).module()
    return compute


def write_safetensors(predictor: Predictor, path: Path) -> Compute:
    """Write the weights of the model under their names in checkpoints."""
    from safetensors.torch import save

    weights = {name: value.contiguous() for name, value in predictor.model.state_dict().items()}
    path.write_bytes(save(weights, metadata(predictor)))
    again = deepcopy(predictor)
    again.model.load_state_dict(read_safetensors(path, again.model)["state_dict"])
    return again


def write_ckpt(predictor: Predictor, path: Path) -> Compute:
    """Write a checkpoint without what only training needs."""
    save_model(predictor.model, path, predictor.class_names, predictor.data)
    model = type(predictor.model).load_from_checkpoint(path, map_location="cpu", weights_only=True)
    return Predictor(model, predictor.preprocess, predictor.data)


def read_safetensors(path: Path, model: nn.Module) -> dict[str, Any]:
    """Read what was written, as a checkpoint: weights, names of classes, the state of the data."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            held = file.metadata() or {}
            names, data = (json.loads(held.get(n, "null")) for n in ("class_names", "data"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"RUN {path}: is no file of weights ({error}).") from None
    return {**(data or {}), "class_names": names, "state_dict": weights}


READERS = {".safetensors": read_safetensors, ".pdparams": paddle.read_weights}


def metadata(predictor: Predictor) -> dict[str, str]:
    """Say in strings what a file holds."""
    model = predictor.model
    held = {
        "settings": {name: v for name, v in model.hparams.items() if not name.startswith("_")},
        "class_names": predictor.class_names,
        "data": trained_state(predictor.data),
        "preprocessing": {name: v.tolist() for name, v in predictor.preprocess.named_buffers()},
    }
    return {"model": type(model).__name__} | {name: json.dumps(v) for name, v in held.items()}


WRITERS: dict[str, Callable[[Predictor, Path], Compute]] = {
    "onnx": write_onnx,
    "torch": write_torch,
    "safetensors": write_safetensors,
    "paddle": paddle.export,
    "ckpt": write_ckpt,
}
