"""Predict with a trained model: image files or folders, or rows of a CSV file."""

from . import PROJECT

main = PROJECT.main("predict")

if __name__ == "__main__":
    raise SystemExit(main())
