"""Make the pictures of the README from real runs: ``python docs/make_pictures.py``, in the root.

Needs CIFAR-10 (downloaded where missing), two minutes on two CPU cores, and Linux or macOS.
"""

import io
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 80
DOCS = Path("docs")
SHOWN = ["python", "-m", "src.train"]
DRAWN = ["python", "-m", "src.train", "--config", "cifar10", "--trainer.max_epochs", "5"]


def main() -> None:
    """Run both commands, and keep what the terminal showed of one and a picture of the other."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text(f"$ {' '.join(SHOWN)}"))
    console.print(Text.from_ansi(in_terminal(SHOWN)))
    console.save_svg(str(DOCS / "run.svg"), title="linear regression", unique_id="run")
    in_terminal(DRAWN)
    newest = max(Path("runs", "cifar10").iterdir(), key=lambda path: path.stat().st_mtime)
    shutil.copyfile(newest / "plots" / "confusion.png", DOCS / "confusion.png")


def in_terminal(command: list[str]) -> str:
    """Run a command as on a terminal, and return all that it wrote there.

    Of a line that was written anew again and again, rich's decoder takes the last.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *command[1:]],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"},
    )
    os.close(theirs)
    written = b""
    while part := read(ours):
        written += part
    text = written.decode().replace("\r\n", "\n")
    if process.wait() != 0:
        raise SystemExit(text)
    return text


def read(terminal: int) -> bytes:
    """Read what there is, nothing at the end."""
    try:
        return os.read(terminal, 2**16)
    except OSError:  # what Linux says when the other end is closed
        return b""


if __name__ == "__main__":
    main()
