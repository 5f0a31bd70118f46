"""What each idea of deep learning is worth, measured: ``python -m labs NAME``."""
