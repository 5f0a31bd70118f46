"""As in a package."""
