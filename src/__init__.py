"""A PyTorch Lightning project: models, data, callbacks and the commands that run them."""
