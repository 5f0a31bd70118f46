"""Labs of data and networks."""

import math

import torch
from matplotlib.figure import Figure

from .lab import Lab, Measured, Run, Runs, metrics, options
from .loading import loading
from .models import DeepMLP
from .pictures import lines

SPIRALS = "--config labs/spirals.yaml"
IMAGES = "--config labs/images.yaml --model.optimizer '{name: SGD, lr: 0.1}'"
SCENES = (
    "--model labs.models.SquareFinder --data DatasetDataModule --data.dataset labs.data.Scenes "
    "--trainer.max_epochs 5 --trainer.accelerator cpu"
)
RARE = (
    "--model labs.models.Screening --data DatasetDataModule --data.dataset labs.data.RareDisease "
    "--data.test_fraction 0.5 --trainer.max_epochs 5 --trainer.accelerator cpu"
)
PHOTOS = (
    "--data.subset 1000 --model.channels [16,32] --trainer.max_epochs 20 "
    "--trainer.check_val_every_n_epoch 20 --callbacks.early_stopping null "
    "--trainer.limit_test_batches 1"
)
SEQUENCES = (
    "--model labs.models.Elman --data DatasetDataModule --data.dataset labs.data.Echo "
    "--model.optimizer '{name: SGD, lr: 0.02}' --trainer.max_epochs 10 "
    "--trainer.check_val_every_n_epoch 10 --trainer.accelerator cpu"
)
GRADIENTS = "--trainer.log_every_n_steps 1 --callbacks.gradient_norms.every_n_steps 1"


def gap(run: Run) -> float:
    """How many percentage points more are right in training than in validation."""
    return 100 * (run.metrics["train/acc"] - run.metrics["val/acc"])


def gradients(run: Run) -> list[float]:
    """The gradient's norm of each layer in the first step, from the input to the output."""
    row = next(row for row in run.rows if any("grad_norm/" in name for name in row))
    found = {name: size for name, size in row.items() if "grad_norm/" in name}
    return [found[name] for name in sorted(found, key=lambda name: int(name.split(".")[1]))]


def largest_gradient(run: Run) -> float:
    """The greatest norm of the whole gradient in a step."""
    steps = ([v for n, v in row.items() if n.startswith("grad_norm/")] for row in run.rows)
    return max(math.hypot(*norms) for norms in steps if norms)


def draw_gradients(runs: Runs) -> Figure:
    """Draw the gradient of each layer, a line for each row: its first seed."""
    found = {label: gradients(some[0]) for label, some in runs.items()}
    return lines(found, "layer, from the input", "norm of its gradient, first step", is_log=True)


def draw_regions(runs: Runs) -> Figure:
    """Draw which class a network takes each point of the plane for: that of the first seed."""
    side = torch.linspace(-2, 2, 200)
    plane = torch.cartesian_prod(side, side).flip(1)  # x changes fastest
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for axes, (label, some) in zip(figure.subplots(1, len(runs)), runs.items(), strict=True):
        settings = some[0].checkpoint["hyper_parameters"]  # with some of Lightning's own
        model = DeepMLP(**{name: v for name, v in settings.items() if not name.startswith("_")})
        model.load_state_dict(some[0].weights)
        with torch.no_grad():
            classes = model(plane).argmax(1).reshape(200, 200)
        axes.imshow(classes.numpy(), origin="lower", cmap="Set2", extent=(-2, 2, -2, 2))
        axes.set(title=label.split()[-1].strip("`"), xticks=[], yticks=[])
    return figure


def each(*lists: list[str]) -> dict[str, str]:
    """Make a row of each combination of an option from the first list and one from the second."""
    first, second = lists
    return options(*(f"{one} {other}" for one in first for other in second))


def depths(*numbers: int) -> list[str]:
    """Options for numbers of hidden layers."""
    return [f"--model.depth {number}" for number in numbers]


LABS: dict[str, Lab | Measured] = {
    "custom_dataset": Lab(
        base=SPIRALS,
        rows=options(
            "--data.dataset.num_samples 300",
            "--data.dataset.num_samples 1000",
            "--data.dataset.num_samples 3000",
            "--data.dataset.noise_std 0.6",
            "--data.dataset.num_classes 6 --model.num_classes 6",
        ),
        columns=metrics("train/acc", "val/acc", "test/acc"),
        seeds=3,
    ),
    "data_loader": Measured(loading),
    "collate_fn": Lab(
        base=SCENES,
        rows=options(
            "--data.collate_fn labs.data.listed",
            "--data.collate_fn labs.data.padded",
            "--data.collate_fn labs.data.first_box",
        ),
        columns=metrics("test/labelled", "test/found", "test/loss"),
        seeds=3,
    ),
    "samplers": Lab(
        base=RARE,
        rows={"shuffled": ""}
        | options(
            "--data.sampler torch.utils.data.RandomSampler --data.sampler.replacement true",
            "--data.weighted_sampling true",
        ),
        columns=metrics("test/acc", "test/recall", "test/precision"),
    ),
    "augmentation": Lab(
        base=f"--config cifar10 {PHOTOS}",
        rows=options(
            "--data.augment null",
            "--data.augment '{horizontal_flip: {probability: 0.5}}'",
            "--data.augment '{random_crop: {pad_px: 2}, horizontal_flip: {probability: 0.5}}'",
        ),
        columns=metrics("train/acc", "val/acc") | {"gap, points": gap} | metrics("val/loss"),
        seeds=3,
        quick_base=f"--config cifar10_synthetic {PHOTOS} --data.num_samples 1000",
    ),
    "activation": Lab(
        base=SPIRALS,
        rows=options(
            *(f"--model.activation {name}" for name in ("identity", "sigmoid", "tanh", "relu"))
        ),
        columns=metrics("train/loss", "train/acc", "test/acc"),
        draw=draw_regions,
    ),
    "vanishing_gradients": Lab(
        base=f"{SPIRALS} --model.weight_init he {GRADIENTS}",
        rows=each(depths(3, 10), [f"--model.activation {n}" for n in ("sigmoid", "tanh", "relu")]),
        columns={
            "gradient, first layer": lambda run: gradients(run)[0],
            "gradient, last layer": lambda run: gradients(run)[-1],
            **metrics("train/loss", "test/acc"),
        },
        seeds=3,
        draw=draw_gradients,
    ),
    "exploding_gradients": Lab(
        base=f"{SEQUENCES} {GRADIENTS}",
        rows=options(
            "--model.gain 1.0",
            "--model.gain 1.0 --callbacks.gradient_clipping.max_norm 1.0",
            "--model.gain 1.6",
            "--model.gain 1.6 --model.optimizer.lr 0.0005",
            "--model.gain 1.6 --callbacks.gradient_clipping.max_norm 1.0",
            "--model.gain 1.6 --callbacks.gradient_clipping.max_value 0.1",
        ),
        columns={"largest gradient": largest_gradient, **metrics("train/loss", "test/loss")},
        seeds=3,
    ),
    "initialization": Lab(
        base=f"{SPIRALS} --model.optimizer '{{name: SGD, lr: 0.02, momentum: 0.9}}'",
        rows=each(
            depths(3, 10, 20),
            [f"--model.weight_init {name}" for name in ("default", "xavier", "he")],
        ),
        columns=metrics("train/loss", "train/acc", "test/acc"),
        seeds=3,
    ),
    "batch_norm": Lab(
        base=IMAGES,
        rows=each(
            [f"--model.optimizer.lr {lr}" for lr in (0.01, 0.1, 1)],
            [f"--model.batch_norm {is_on}" for is_on in ("false", "true")],
        ),
        columns=metrics("train/loss", "train/acc", "test/acc"),
        seeds=3,
    ),
    "residual": Lab(
        base=SPIRALS,
        rows=each(depths(4, 12, 24), [f"--model.residual {is_on}" for is_on in ("false", "true")]),
        columns=metrics("train/loss", "train/acc", "test/acc"),
        seeds=3,
    ),
    "losses": Lab(
        base=f"{SPIRALS} --data.dataset.num_samples 600 --data.dataset.wrong_labels 0.2 "
        "--model.width 64 --trainer.max_epochs 60",
        rows=options(
            "--model.loss mse",
            "--model.loss cross_entropy",
            "--model.loss cross_entropy --model.label_smoothing 0.1",
            "--model.loss cross_entropy --model.label_smoothing 0.3",
        ),
        columns=metrics("train/acc", "test/acc", "test/ece"),
        seeds=3,
    ),
}
