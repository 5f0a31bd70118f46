"""Fine-tuning: what it is worth that a backbone was trained before, and at what rate it learns."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from .kept import IMAGES, Numbers
from .lab import trained

TASK = (  # the same classes in fifty images with twice the noise
    f"{IMAGES} --model labs.fine_tuned.FineTuned --model.num_classes 10 --model.image_size_px 16 "
    "--model.channels [16,32] --model.hidden_features 64 "
    "--model.optimizer '{name: SGD, lr: 0.03, momentum: 0.9}' --data.num_samples 50 "
    "--data.batch_size 10 --data.noise_std 4 --trainer.max_epochs 40 "
    "--trainer.check_val_every_n_epoch 20 --callbacks.checkpoint.monitor null"
)
RATES = (1, 0.3, 0.1, 0)


def parameter_groups(seed: int, more: str) -> Numbers:
    """Train the backbone on 2,000 images, then go on with another task at several rates."""
    first = trained(f"{IMAGES} {more}", seed)
    with TemporaryDirectory() as folder:
        torch.save(first.weights, file := Path(folder, "weights.pt"))
        ways = {"from scratch": ""}
        for rate in RATES:
            groups = f"--model.optimizer.lr_multipliers '{{\"network.?.*\": {rate}}}'"
            ways[f"backbone's rate x {rate}"] = f"--model.weights {file} {groups}"
        ways["rate 0.003 for all"] = f"--model.weights {file} --model.optimizer.lr 0.003"
        runs = {label: trained(f"{TASK} {way} {more}", seed) for label, way in ways.items()}
    names = ("train/loss", "test/loss", "test/acc")
    return {
        label: {f"`{name}`": run.metrics[name] for name in names} for label, run in runs.items()
    }
