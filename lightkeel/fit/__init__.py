"""Fit, evaluate and resume exactly."""
