"""Labs of data and networks."""

from .lab import Lab, Measured, metrics, options

# A small network on 2,000 images made on the spot, and plain SGD: seconds a training.
IMAGES = (
    "--config cifar10_synthetic --data.num_samples 2000 --data.num_val_samples 500 "
    "--data.num_test_samples 1000 --data.batch_size 50"
)
PLAIN = (
    f"{IMAGES} --model.lr_scheduler null --callbacks.gradient_clipping null "
    "--model.optimizer '{name: SGD, lr: 0.1}'"
)

RATES = [f"--model.optimizer.lr {lr}" for lr in (0.01, 0.1, 0.5)]
NORMS = [f"--model.batch_norm {is_on}" for is_on in ("false", "true")]

LABS: dict[str, Lab | Measured] = {
    "batch_norm": Lab(
        base=f"{PLAIN} --model.channels [16,32,32]",
        rows=options(*(f"{rate} {norm}" for rate in RATES for norm in NORMS)),
        columns=metrics("train/loss", "train/acc", "test/acc"),
        seeds=3,
    ),
}
