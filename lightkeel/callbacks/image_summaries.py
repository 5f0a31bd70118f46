"""See images as the model gets them, what its layers make of them, and which it gets wrong."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from ..errors.checks import at_least
from ..models.fsdp import whole
from .confusion import fits, surest_mistakes

POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
MOST_CHANNELS = 64
IMAGE_PX, MAP_PX, FILTER_PX = 128, 64, 32  # of a tile: others are brought near it
LABEL_PX = 28  # two lines of Pillow's own font
GAP_PX = 3  # of white, between tiles


class ImageSummaries(Callback):
    """Write images to TensorBoard, where there is one and inputs are images of 1 or 3 channels.

    In the first epoch, every few epochs and the last one:

    - images/augmented: the first training batch of the epoch, as the model gets it, each image
      right of its original where the data has ``originals``;
    - images/filters: the weights of the first convolution, each scaled to its own range;
    - images/misclassified: those of the first validation batch that the model is surest about
      and wrong, with the true class and the predicted one;
    - feature_maps/NUMBER_LAYER: what each convolution and each pooling layer makes of the first
      validation image, left of them, in the order they are called, one tile a channel, 64 at most.

    What validation computes is looked at, and not computed again: any model will do. Where its
    ``validation_step`` returns class scores (B, K), misclassified images are found.

    Args:
        every_n_epochs: Epochs from one look to the next.
        num_images: Tiles at most in the two grids of images.
    """

    def __init__(self, every_n_epochs: int = 5, num_images: int = 16) -> None:
        at_least(1, every_n_epochs=every_n_epochs, num_images=num_images)
        self.every_n_epochs = every_n_epochs
        self.num_images = num_images
        self._writer: Any = None  # of TensorBoard
        self._data: Any = None
        self._handles: list[RemovableHandle] = []
        # By layer, in the order of calls: (C, H, W); None while nothing is looked at.
        self._maps: dict[str, Tensor] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        boards = [log for log in trainer.loggers if isinstance(log, TensorBoardLogger)]
        self._writer = boards[0].experiment if boards else None
        self._data = trainer.datamodule  # type: ignore[attr-defined]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx or not self._is_due(trainer):
            return
        inputs = images_in(batch)
        if inputs is None:
            self._writer = None
        elif trainer.is_global_zero:
            tiles = resize(to_pixels(inputs[: self.num_images], self._data), IMAGE_PX)
            originals = getattr(self._data, "originals", lambda most: None)(len(tiles))
            if originals is not None:
                left = resize(originals.permute(0, 3, 1, 2), IMAGE_PX)
                tiles = torch.cat([F.pad(left, (0, GAP_PX), value=255), tiles], 3)
            self._writer.add_image("images/augmented", grid(tiles), trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        first = next((m for m in pl_module.modules() if isinstance(m, nn.Conv2d)), None)
        if first is None or not self._is_due(trainer):
            return
        weight = whole(first.weight)  # sharded: all devices take part
        if weight.ndim == 4 and weight.shape[1] in (1, 3) and trainer.is_global_zero:
            tiles = resize(stretch(weight[:MOST_CHANNELS].cpu().float(), (1, 2, 3)), FILTER_PX)
            self._writer.add_image("images/filters", grid(tiles), trainer.global_step - 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Where not each epoch is validated, the first to be validated after one that is due.
        since: int = trainer.check_val_every_n_epoch or 1
        if trainer.sanity_checking or not (trainer.is_global_zero and self._is_due(trainer, since)):
            return
        maps = self._maps = dict[str, Tensor]()

        def keep(name: str, layer: nn.Module, inputs: Any, outputs: Any) -> None:
            if name not in maps and isinstance(outputs, Tensor) and outputs.ndim == 4:
                maps[name] = outputs[0].detach().clone()

        for kind, classes in {"conv": (nn.Conv2d,), "pool": POOLS}.items():
            for name, layer in pl_module.named_modules():
                if isinstance(layer, classes):
                    hook = partial(keep, f"{kind}_{name}")
                    self._handles.append(layer.register_forward_hook(hook))
        torch.compiler.set_stance("force_eager")  # a compiled network calls no hooks

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        if self._maps is None:
            return
        step, maps = trainer.global_step - 1, self._maps
        self.on_exception()
        inputs = images_in(batch)
        first = [] if inputs is None else [resize(to_pixels(inputs[:1], self._data), IMAGE_PX)]
        for number, (name, channels) in enumerate(maps.items()):
            tiles = stretch(channels[:MOST_CHANNELS, None].cpu().float())
            shown = beside(*map(grid, [*first, resize(tiles, MAP_PX)]))
            self._writer.add_image(f"feature_maps/{number:02}_{name}", shown, step)
        if inputs is None or not fits(outputs, batch):
            return
        found, _ = surest_mistakes(outputs, batch, self.num_images)
        images, true, predicted = (part[found[-1] >= 0] for part in found[:-1])
        if len(images):
            names = dict(enumerate(getattr(self._data, "class_names", None) or ()))
            pairs = zip(true.tolist(), predicted.tolist(), strict=True)
            texts = [f"true: {names.get(t, t)}\npredicted: {names.get(p, p)}" for t, p in pairs]
            tiles = resize(to_pixels(images.detach(), self._data), IMAGE_PX)
            labelled = [label(tile, text) for tile, text in zip(tiles, texts, strict=True)]
            self._writer.add_image("images/misclassified", grid(torch.stack(labelled)), step)

    def on_exception(self, *args: Any) -> None:
        if self._maps is not None:
            torch.compiler.set_stance("default")
        self._maps = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _is_due(self, trainer: Trainer, since: int = 1) -> bool:
        """Tell whether this epoch, or one of the ``since`` up to it, is one to look at."""
        epoch = trainer.current_epoch
        if self._writer is None or trainer.state.fn != "fit":
            return False
        return epoch % self.every_n_epochs < since or epoch + 1 == trainer.max_epochs


def images_in(batch: Any) -> Tensor | None:
    """Return the inputs of a batch if they are images (B, C, H, W), floats of 1 or 3 channels."""
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    is_float = isinstance(inputs, Tensor) and inputs.is_floating_point()
    return inputs.detach() if is_float and inputs.ndim == 4 and inputs.shape[1] in (1, 3) else None


def to_pixels(inputs: Tensor, data: Any) -> Tensor:
    """Bring inputs of the model (B, C, H, W) back to uint8 on the CPU, by the data if it can."""
    back: Callable[[Tensor], Tensor] | None = getattr(data, "pixels", None)
    if back is None or getattr(data, "collate_fn", None) is not None:
        return stretch(inputs.cpu().float())
    return back(inputs).permute(0, 3, 1, 2).cpu()


def stretch(images: Tensor, dims: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
    """Scale what lies along ``dims`` from its least and greatest value to uint8."""
    images = torch.nan_to_num(images, 0.0, 0.0, 0.0)
    least, greatest = images.amin(dims, keepdim=True), images.amax(dims, keepdim=True)
    shares = (images - least) / (greatest - least).clamp(min=torch.finfo(torch.float32).tiny)
    return (shares * 255).round().byte()


def resize(images: Tensor, px: int) -> Tensor:
    """Repeat pixels of (N, C, H, W), or leave some out, until the shorter side is about ``px``."""
    side = min(images.shape[2:])
    factor, step = max(1, math.ceil(px / side)), max(1, side // px)
    return images[..., ::step, ::step].repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def grid(tiles: Tensor) -> Tensor:
    """Lay (N, C, H, W) uint8 out in rows, each in a black line, white between: (3, H', W')."""
    from torchvision.utils import make_grid  # where there are images, there is torchvision

    framed = F.pad(tiles.expand(-1, 3, -1, -1), [1] * 4)
    if len(tiles) == 1:  # which it does not lay out
        return framed[0]
    columns = math.ceil(math.sqrt(len(tiles)))
    cut = slice(GAP_PX, -GAP_PX)
    return make_grid(framed, columns, padding=GAP_PX, pad_value=255)[:, cut, cut]


def beside(*pictures: Tensor) -> Tensor:
    """Put pictures (3, H, W) side by side, white between them and below the lower."""
    height = max(picture.shape[1] for picture in pictures)
    parts = [F.pad(p, (0, GAP_PX, 0, height - p.shape[1]), value=255) for p in pictures]
    return torch.cat(parts, 2)[:, :, :-GAP_PX]


def label(image: Tensor, text: str) -> Tensor:
    """Put text above an image: (C, H, W) -> (3, LABEL_PX + H, W), uint8."""
    from PIL import Image, ImageDraw  # where there are images, there is Pillow

    strip = Image.new("RGB", (image.shape[2], LABEL_PX), "white")
    ImageDraw.Draw(strip).text((1, 0), text, "black")
    drawn = torch.from_numpy(np.array(strip)).permute(2, 0, 1)
    return torch.cat([drawn, image.expand(3, -1, -1)], 1)
