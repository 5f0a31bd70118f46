"""Batches as a model gets them, without a trainer."""

from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightkeel.data.in_memory import InMemoryDataModule, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
FUNCTIONS = {"train": TrainerFn.FITTING, "val": TrainerFn.VALIDATING, "test": TrainerFn.TESTING}
STAGES = {"train": "fit", "val": "validate", "test": "test"}


def trainer(
    split: Split = "train",
    epoch: int = 0,
    devices: int = 1,
    rank: int = 0,
    device: str = "cpu",
) -> Any:
    return SimpleNamespace(
        state=SimpleNamespace(fn=FUNCTIONS[split]),
        training=split == "train",
        testing=split == "test",
        current_epoch=epoch,
        world_size=devices,
        global_rank=rank,
        overfit_batches=0,
        lightning_module=None,
        strategy=SimpleNamespace(root_device=torch.device(device)),
        precision_plugin=Precision(),
    )


def serve(
    data: InMemoryDataModule,
    split: Split = "train",
    epoch: int = 0,
    devices: int = 1,
    rank: int = 0,
    batches_done: int = 0,
) -> list[tuple[Tensor, Tensor]]:
    """All batches of an epoch as a model gets them."""
    data.trainer = trainer(split, epoch, devices, rank)
    data.prepare_data()
    data.setup(STAGES[split])
    loader: Any = getattr(data, f"{split}_dataloader")()
    loader.sampler.set_epoch(epoch)
    if batches_done:
        loader.begin_at(batches_done)
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def targets(batches: list[tuple[Tensor, Tensor]]) -> list[list[int]]:
    return [batch.tolist() for _, batch in batches]
