"""Optimizers, schedules and sharding, for any module."""
