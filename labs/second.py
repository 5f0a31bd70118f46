"""Labs of training and of what it leaves."""

from matplotlib.figure import Figure

from .kept import IMAGES, accumulation, checkpoints, least_squares, repeated
from .lab import TINY, Lab, Measured, Run, Runs, metrics, options
from .paddle import paddle
from .pictures import curves
from .pretrained import parameter_groups
from .search import search

LINE = "--callbacks.gradient_clipping null --callbacks.checkpoint.monitor null"
RATES = {
    "SGD": ("{name: SGD, lr: %s}", (0.03, 0.1, 0.3)),
    "SGD, momentum 0.9": ("{name: SGD, lr: %s, momentum: 0.9}", (0.01, 0.03, 0.1)),
    "RMSprop": ("{name: RMSprop, lr: %s}", (0.0003, 0.001, 0.003)),
    "Adam": ("{name: Adam, lr: %s}", (0.001, 0.003, 0.01)),
}
SCHEDULES = {
    "constant 0.1": "",
    "constant 0.001": "--model.optimizer.lr 0.001",
    "by epoch: StepLR, 2": "--model.lr_scheduler '{name: StepLR, step_size: 2}'",
    "by step: StepLR, 200": "--model.lr_scheduler '{name: StepLR, step_size: 200, interval: step}'",
    "by step: StepLR, 2": "--model.lr_scheduler '{name: StepLR, step_size: 2, interval: step}'",
    "by epoch: cosine": "--model.lr_scheduler '{name: CosineAnnealingLR, interval: epoch}'",
    "by step: cosine": "--model.lr_scheduler.name CosineAnnealingLR",
    "watching val/loss": "--model.lr_scheduler '{name: ReduceLROnPlateau, patience: 0}'",
}


def near_zero(run: Run) -> float:
    """Percentage of weights, biases not counted, that are smaller than 0.001."""
    weights = [w.flatten().abs() for w in run.weights.values() if w.ndim > 1]
    small = sum(int((w < 0.001).sum()) for w in weights)
    return 100 * small / sum(map(len, weights))


def batch(size: int, rate: float) -> str:
    """Options of a batch size and a learning rate."""
    return f"--data.batch_size {size} --model.optimizer.lr {rate:g}"


def losses(runs: Runs) -> Figure:
    """Draw validation's losses, which differ by many orders of magnitude."""
    return curves(runs, "val/loss", is_log=True)


def rates(runs: Runs) -> Figure:
    """Draw the learning rates of schedules, which lie on each other where these agree."""
    return curves({label: some for label, some in runs.items() if "constant" not in label}, "lr")


LABS: dict[str, Lab | Measured] = {
    "optimizers": Lab(
        base=IMAGES,
        rows={
            f"{name}: {lr}": f"--model.optimizer '{settings % lr}'"
            for name, (settings, several) in RATES.items()
            for lr in several
        },
        columns=metrics("train/loss", "val/loss", "test/acc", "train_seconds"),
        seeds=4,
    ),
    "learning_rate": Lab(
        base=f"--data.batch_size 1000 --trainer.max_epochs 30 {LINE}",
        rows=options(*(f"--model.optimizer.lr {lr}" for lr in (0.001, 0.01, 0.1, 0.5, 0.9, 1.1))),
        columns=metrics("train/loss", "val/loss", "test/weight_error"),
        draw=losses,
    ),
    "schedules": Lab(
        base="--data.noise_std 3 --data.batch_size 10 --model.optimizer.lr 0.1 "
        f"--trainer.max_epochs 6 --trainer.log_every_n_steps 10 {LINE}",
        rows=SCHEDULES,
        columns=metrics("lr", "test/weight_error", "test/loss"),
        quick=f"{TINY} --trainer.log_every_n_steps 1",
        draw=rates,
    ),
    "accumulation": repeated(accumulation),
    "batch_size": Lab(
        base=IMAGES,
        rows={
            **{f"{size}, lr 0.05": batch(size, 0.05) for size in (8, 32, 128, 500, 2000)},
            **{
                f"{size}, lr {size * 0.0004:g}": batch(size, size * 0.0004)
                for size in (8, 32, 500, 2000)
            },
        },
        columns=metrics("steps", "train/loss", "test/acc", "train_seconds"),
    ),
    "regularization": Lab(
        base=f"{IMAGES} --data.num_samples 300 --data.batch_size 50 --data.noise_std 3 "
        "--model.optimizer '{name: AdamW, lr: 0.003, weight_decay: 0}' --trainer.max_epochs 40 "
        "--trainer.check_val_every_n_epoch 20 --callbacks.checkpoint.monitor null",
        rows={
            "none": "",
            **options(*(f"--model.l1_penalty {p}" for p in (0.0001, 0.001, 0.003))),
            **options(*(f"--model.optimizer.weight_decay {decay}" for decay in (0.1, 1, 3))),
            **options(*(f"--model.dropout {p}" for p in (0.2, 0.5))),
        },
        columns={
            **metrics("train/loss", "test/loss", "train/acc", "test/acc"),
            "weights < 0.001, %": near_zero,
        },
        seeds=4,
    ),
    "parameter_groups": repeated(parameter_groups),
    "epochs_or_steps": Lab(
        base=IMAGES,
        rows=options(
            *(
                f"--data.num_samples {count} {limit}"
                for limit in (
                    "--trainer.max_epochs 5",
                    "--trainer.max_epochs -1 --trainer.max_steps 80",
                )
                for count in (500, 2000, 8000)
            )
        ),
        columns=metrics("epochs", "steps", "train/loss", "val/loss", "test/acc", "train_seconds"),
        seeds=3,
        quick=f"{TINY} --data.num_samples 200",
    ),
    "checkpoints": repeated(checkpoints),
    "paddle": repeated(paddle),
    "least_squares": repeated(least_squares),
    "search": repeated(search),
}
