"""Train a model, test its best checkpoint, and leave everything in the folder of the run."""

from . import PROJECT

main = PROJECT.main("train")

if __name__ == "__main__":
    raise SystemExit(main())
