"""The datamodules of this project; a name listed here can be given as ``--data NAME``."""

from src.data.cifar10 import CIFAR10DataModule as CIFAR10DataModule
from src.data.image_folder import ImageFolderDataModule as ImageFolderDataModule
from src.data.synthetic import (
    SyntheticImageDataModule as SyntheticImageDataModule,
    SyntheticRegressionDataModule as SyntheticRegressionDataModule,
)
