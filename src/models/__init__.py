"""The models of this project; a name listed here can be given as ``--model NAME``."""

from .fast_cnn import FastCNN as FastCNN
from .linear_regression import LinearRegression as LinearRegression
from .mlp import MLP as MLP
from .simple_cnn import SimpleCNN as SimpleCNN
