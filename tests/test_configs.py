"""Every complete config trains, and every other can be laid over one, whatever they name."""

from lightkeel.testing import experiment_tests, overlay_tests, sweep_tests
from src import PROJECT

test_experiment = experiment_tests(PROJECT)
test_overlay = overlay_tests(PROJECT)
test_sweep = sweep_tests(PROJECT)
