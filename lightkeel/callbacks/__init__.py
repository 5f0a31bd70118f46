"""Behaviour that Lightning's own callbacks do not have."""
