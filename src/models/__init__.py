"""The models of this project; a name listed here can be given as ``--model NAME``."""

from src.models.linear_regression import LinearRegression as LinearRegression
from src.models.simple_cnn import SimpleCNN as SimpleCNN
