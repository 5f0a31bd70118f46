"""The datamodules of this project; a name listed here can be given as ``--data NAME``."""

from .cifar10 import CIFAR10DataModule as CIFAR10DataModule
from .image_folder import ImageFolderDataModule as ImageFolderDataModule
from .synthetic_images import SyntheticImageDataModule as SyntheticImageDataModule
from .synthetic_regression import SyntheticRegressionDataModule as SyntheticRegressionDataModule
