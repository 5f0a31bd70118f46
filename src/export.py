"""Export a trained model for use elsewhere, and compare the file with the model."""

from . import PROJECT

main = PROJECT.main("export")

if __name__ == "__main__":
    raise SystemExit(main())
