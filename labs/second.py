"""Labs of training and of what it leaves."""

from .lab import Lab, Measured

LABS: dict[str, Lab | Measured] = {}
