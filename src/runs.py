"""List runs: how they got on, their metrics, and the settings in which they differ."""

from . import PROJECT

main = PROJECT.main("runs")

if __name__ == "__main__":
    raise SystemExit(main())
