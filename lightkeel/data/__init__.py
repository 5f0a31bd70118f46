"""Data whose order and augmentation are functions of (seed, epoch, sample)."""
