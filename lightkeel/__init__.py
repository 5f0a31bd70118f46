"""What keeps the promises of a PyTorch Lightning project: see README.md in this folder."""

__version__ = "0.2.0"
