"""Folders of runs: what is written there, and how they are found again."""
