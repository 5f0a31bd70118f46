"""Bad input, said in a few lines.

Nothing slow is imported here; ``explain`` knows the errors of PyTorch, Lightning and the parser.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from .checks import suggest

LET_SPEAK_S = 10.0


class InputError(Exception):
    """Bad input, said as one to three lines for the person who gave it."""


class Arguments(argparse.ArgumentParser):
    """A parser whose complaints are one line, with what was probably meant."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def option_strings(self) -> set[str]:
        """Return what options may be called, as in ``--name``."""
        return {*self._option_string_actions}

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, rest = self.parse_known_intermixed_args(args, namespace)
        if rest:
            name = rest[0].partition("=")[0]
            hint = suggest(name, [n for n in self.option_strings() if n.startswith("--")])
            raise InputError(f"{name}: {self.prog} has no such option. {hint}")
        return options

    def error(self, message: str) -> NoReturn:
        if found := re.match(r"argument (.+?): invalid choice: '(.*)' \(", message):
            choices = next(a.choices for a in self._actions if found[1] in a.option_strings)
            hint = suggest(found[2], map(str, choices or ()), True)
            raise InputError(f"{found[1]} {found[2]}: is no choice. {hint}")
        raise InputError(f"{message}. See {self.prog} --help.")


@contextmanager
def readable() -> Iterator[None]:
    """Print an ``InputError`` on standard error and exit with 2; Ctrl-C: 130. All else crashes."""
    try:
        yield
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            # Most often all devices of a machine find the same error. The first says it, and as it
            # ends, so does this process; who is still there after a while has found its own.
            time.sleep(LET_SPEAK_S)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print("error: " + "\n  ".join(lines[:3]), file=sys.stderr, flush=True)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
