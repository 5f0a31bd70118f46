"""What this project is compared with: the loops and pipelines of tutorials and templates."""

import time
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import Precision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms

from lightkeel.data.in_memory import InMemoryDataModule
from src.data.cifar10 import CIFAR10_MEAN, CIFAR10_STD
from src.models import SimpleCNN

LR = 0.004
Batches = Iterator[tuple[Tensor, Tensor]]


class PerSample(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's own datasets serve them: one by one, through PIL and transforms."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images.numpy()
        self.labels = labels.tolist()
        crop = transforms.RandomCrop(32, padding=2, padding_mode="reflect")  # type: ignore[no-untyped-call]
        flip = transforms.RandomHorizontalFlip()  # type: ignore[no-untyped-call]
        normalize = transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD)  # type: ignore[no-untyped-call]
        steps = [crop, flip, transforms.ToTensor(), normalize]
        self.transform = transforms.Compose(steps)  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class TypicalModule(LightningModule):
    """SimpleCNN's network as templates wrap it: metric objects and ``self.log`` in each step."""

    def __init__(self, network: nn.Module, num_steps: int) -> None:
        super().__init__()
        self.network = network
        self.num_steps = num_steps
        self.train_acc = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        outputs = self.network(images)
        loss = F.cross_entropy(outputs, labels, label_smoothing=0.1)
        self.train_acc(outputs, labels)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), LR, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, self.num_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class EpochTime(Callback):
    """Measure epochs of training from before the first batch to after the last, in seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = now(pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(now(pl_module.device) - self._began)


def now(device: torch.device) -> float:
    """Read the clock when the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def network() -> nn.Module:
    """Build SimpleCNN's network as ``configs/cifar10.yaml`` does."""
    return SimpleCNN().network


def own_batches(data: InMemoryDataModule, device: torch.device, epoch: int = 0) -> Batches:
    """Batches of this project's data as a model gets them, without a trainer."""
    loader: Any = data.train_dataloader()
    data.trainer.current_epoch = epoch  # type: ignore[union-attr, misc]
    loader.sampler.set_epoch(epoch)
    for batch in loader:
        moved = data.transfer_batch_to_device(batch, device, 0)
        yield data.on_after_batch_transfer(moved, 0)


def stand_in(device: torch.device) -> Any:
    """What a datamodule asks of its trainer, outside of one."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=0))
    return SimpleNamespace(
        state=SimpleNamespace(fn=None),
        world_size=1,
        global_rank=0,
        current_epoch=0,
        training=True,
        testing=False,
        overfit_batches=0,
        strategy=SimpleNamespace(root_device=device),
        precision_plugin=Precision(),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    )


def plain_batches(loader: DataLoader[Any], device: torch.device) -> Batches:
    """Batches of a loader, moved to the device."""
    for images, labels in loader:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def plain_loop(
    epochs: Iterable[Batches], num_steps: int, device: torch.device, bfloat16: bool = False
) -> list[float]:
    """Train a new network with the fewest statements: the seconds of each epoch."""
    net = network().to(device)
    optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, num_steps)
    seconds = []
    for batches in epochs:
        began = now(device)
        for images, labels in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                loss = F.cross_entropy(net(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        seconds.append(now(device) - began)
    return seconds
