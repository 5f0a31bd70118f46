"""The commands: arguments only, PyTorch is imported once they are checked."""
