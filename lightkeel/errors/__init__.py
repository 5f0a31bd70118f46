"""Bad input, said in a few lines."""
