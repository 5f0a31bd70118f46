"""Every model of the package trains, and a checkpoint brings it back."""

from lightkeel.testing import model_tests
from src import PROJECT

test_model = model_tests(PROJECT)
