"""What the owner of a project may add to it: laid over its package, with one line in each list."""
