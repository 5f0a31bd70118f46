"""Sweeps: many runs of one experiment, over a space of options, with Optuna as the engine."""
