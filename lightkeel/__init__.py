"""What keeps the promises of a PyTorch Lightning project: see README.md in this folder.

The names below are public, and imported when they are first asked for: PyTorch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .project import Project as Project

if TYPE_CHECKING:
    from .callbacks.accumulation import AccumulationScheduler as AccumulationScheduler
    from .callbacks.checkpoint import Checkpoint as Checkpoint
    from .callbacks.early_stopping import EarlyStopping as EarlyStopping
    from .callbacks.readings import is_row_due as is_row_due
    from .callbacks.table import Callbacks as Callbacks, on as on
    from .data.dataset import DatasetDataModule as DatasetDataModule
    from .data.image_folder import ImageFolderDataModule as ImageFolderDataModule
    from .data.images import ImageDataModule as ImageDataModule
    from .data.in_memory import Arrays as Arrays, InMemoryDataModule as InMemoryDataModule
    from .data.official import OfficialFiles as OfficialFiles
    from .data.streaming import StreamingDataModule as StreamingDataModule
    from .data.table import TableDataModule as TableDataModule
    from .errors.checks import at_least as at_least, check_share as check_share
    from .models.fsdp import whole as whole
    from .models.muon import MuonSGD as MuonSGD
    from .models.optimizers import (
        check_optimizers as check_optimizers,
        configure_optimizers as configure_optimizers,
    )
    from .models.weights import initialize as initialize, whitening_filters as whitening_filters
    from .use.predictor import load as load

__version__ = "0.5.0"

PUBLIC = {
    "AccumulationScheduler": "callbacks.accumulation",
    "Arrays": "data.in_memory",
    "Callbacks": "callbacks.table",
    "Checkpoint": "callbacks.checkpoint",
    "DatasetDataModule": "data.dataset",
    "EarlyStopping": "callbacks.early_stopping",
    "ImageDataModule": "data.images",
    "ImageFolderDataModule": "data.image_folder",
    "InMemoryDataModule": "data.in_memory",
    "MuonSGD": "models.muon",
    "OfficialFiles": "data.official",
    "StreamingDataModule": "data.streaming",
    "TableDataModule": "data.table",
    "at_least": "errors.checks",
    "check_optimizers": "models.optimizers",
    "check_share": "errors.checks",
    "configure_optimizers": "models.optimizers",
    "initialize": "models.weights",
    "is_row_due": "callbacks.readings",
    "load": "use.predictor",
    "on": "callbacks.table",
    "whitening_filters": "models.weights",
    "whole": "models.fsdp",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{PUBLIC[name]}", __name__), name)
