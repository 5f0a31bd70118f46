"""Tests of any project's configs and models, for its own ``tests``; needs pytest."""

from .contract import (
    experiment_tests as experiment_tests,
    model_tests as model_tests,
    overlay_tests as overlay_tests,
    restored_environment as restored_environment,
)
