"""A headless Chromium, and the pages it is to open."""

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
# Where screenshots are kept, to be looked at.
SCREENSHOTS = os.environ.get("SCREENSHOTS")
PATIENCE_S = 120.0

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")


class Page:
    """A page of a Chromium that is spoken to through pipes, in its DevTools protocol.

    Args:
        requests: Where messages go; each ends in a zero byte.
        answers: Where they come from.
    """

    def __init__(self, requests: Any, answers: Any) -> None:
        self._requests, self._answers = requests, answers
        self._number = 0
        self._session: dict[str, str] = {}
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def shows(self, *texts: str) -> None:
        """Wait until the page shows all texts."""
        until(lambda: all(text in self._text() for text in texts))

    def image_sizes(self, number: int) -> list[list[int]]:
        """Wait until so many images are loaded, and return their widths and heights."""
        script = "[...document.images].map(i => [i.naturalWidth, i.naturalHeight])"
        loaded = "[...document.images].filter(i => i.complete && i.naturalWidth).length"
        until(lambda: self.evaluate(loaded) >= number)
        sizes: list[list[int]] = self.evaluate(script)
        return sizes

    def screenshot(self, name: str, folder: Path) -> Path:
        path = Path(SCREENSHOTS or folder, f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        taken = self._call("Page.captureScreenshot")["data"]
        path.write_bytes(base64.b64decode(taken))
        return path

    def _text(self) -> str:
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        self._requests.write(json.dumps(message).encode() + b"\0")
        self._requests.flush()
        while True:
            answer = json.loads(b"".join(iter(lambda: self._answers.read(1), b"\0")))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result


@contextmanager
def browsing(profile: Path, width_px: int = 1600, height_px: int = 1500) -> Iterator[Page]:
    """Start a Chromium with a profile of its own; it ends with the block."""
    assert CHROMIUM is not None
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    options = [
        *("--headless=new", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"),
        *("--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}"),
        *(f"--window-size={width_px},{height_px}", *(["--no-sandbox"] * (os.getuid() == 0))),
    ]
    # It reads from descriptor 3 and writes to 4.
    command = ["bash", "-c", f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}', CHROMIUM, *options]
    with (profile.with_suffix(".log")).open("w") as log:
        process = subprocess.Popen(command, pass_fds=(their_in, their_out), stdout=log, stderr=log)
    os.close(their_in)
    os.close(their_out)
    try:
        with os.fdopen(our_out, "wb") as requests, os.fdopen(our_in, "rb") as answers:
            yield Page(requests, answers)
    finally:
        process.kill()
        process.wait()


@contextmanager
def serving(command: Sequence[str], log: Path, ready: str) -> Iterator[str]:
    """Start a server, and wait until it prints where; ``ready`` finds that address in its output.

    Args:
        command: What starts it.
        log: File for what it prints.
        ready: Pattern with one group, the address.
    """
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, cwd=log.parent
        )

    def address() -> str | None:
        assert process.poll() is None, log.read_text()
        found = re.search(ready, log.read_text())
        return found[1] if found else None

    try:
        yield str(until(address))
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def fetch(url: str, **body: Any) -> Any:
    """Read JSON from an address, to which ``body`` is posted if there is any."""
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})
    request.data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def until(found: Callable[[], Any]) -> Any:
    """Ask again and again, until there is an answer that counts, and return it."""
    end = time.monotonic() + PATIENCE_S
    while not (answer := found()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)
    return answer
