"""Evaluate a run's best checkpoint, or any checkpoint, on validation or test data."""

from . import PROJECT

main = PROJECT.main("evaluate")

if __name__ == "__main__":
    raise SystemExit(main())
