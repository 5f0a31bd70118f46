"""Search the options of an experiment: many runs, the best of them, and what made them so."""

from . import PROJECT

main = PROJECT.main("sweep")

if __name__ == "__main__":
    raise SystemExit(main())
