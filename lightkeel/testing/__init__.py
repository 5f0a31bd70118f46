"""Tests of any project's models and configs, for its own ``tests``: needs pytest.

    from lightkeel.testing import experiment_tests, model_tests, overlay_tests
    from src import PROJECT

    test_experiment = experiment_tests(PROJECT)
    test_overlay = overlay_tests(PROJECT)
    test_model = model_tests(PROJECT)

Each finds by itself what there is to test, and takes any ``LightningModule``.
"""

from .contract import (
    experiment_tests as experiment_tests,
    model_tests as model_tests,
    overlay_tests as overlay_tests,
)
from .environment import restored_environment as restored_environment
