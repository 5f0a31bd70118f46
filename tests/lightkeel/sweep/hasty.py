"""The command ``sweep``, whose trials are taken for dead after three seconds."""

import sys

from lightkeel.sweep import study
from src.sweep import main

if __name__ == "__main__":
    study.HEARTBEAT_S, study.GRACE_S = 1, 3
    sys.exit(main(sys.argv[1:]))
