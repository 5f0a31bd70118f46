"""The datamodules of this project; a name listed here can be given as ``--data NAME``."""

from lightkeel import (
    DatasetDataModule as DatasetDataModule,
    ImageFolderDataModule as ImageFolderDataModule,
    StreamingDataModule as StreamingDataModule,
    TableDataModule as TableDataModule,
)

from .cifar10 import CIFAR10DataModule as CIFAR10DataModule
from .synthetic_images import SyntheticImageDataModule as SyntheticImageDataModule
from .synthetic_regression import SyntheticRegressionDataModule as SyntheticRegressionDataModule
