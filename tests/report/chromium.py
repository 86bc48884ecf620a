"""Headless Chromium, driven over its DevTools protocol through a pipe: no port, no packages."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_SECONDS = 60
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--remote-debugging-pipe",
)  # fmt: skip

Json = dict[str, Any]


class Page:
    """A tab, and everything that it reported since it was opened."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[Json] = []

    def open(
        self, place: Path | str, *, width: int = 1280, dark: bool = False, script: bool = True
    ) -> None:
        """Load a file or a URL, and wait for it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.events.clear()
        self.resize(width)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=place if isinstance(place, str) else place.as_uri())
        while "Page.loadEventFired" not in {each["method"] for each in self.events}:
            self.events.append(self._receive())

    def resize(self, width: int, height: int = 900) -> None:
        """Lay the page out for a screen of this size."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def names(self, role: str) -> list[str]:
        """Accessible names of all elements of a role, as Chromium computes them."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        found = [n for n in nodes if not n["ignored"] and n["role"]["value"] == role]
        return [node["name"]["value"] for node in found]

    def screenshot(self, path: Path, *, height: int | None = None) -> None:
        """A PNG of the page, or of its first pixels."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {
            "x": 0,
            "y": 0,
            "width": size["width"],
            "height": height or size["height"],
            "scale": 1,
        }
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def requests(self) -> list[str]:
        """URLs that were asked for, without embedded ones."""
        sent = [each for each in self.events if each["method"] == "Network.requestWillBeSent"]
        urls = [each["params"]["request"]["url"] for each in sent]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, exceptions included."""
        methods = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(each["params"]) for each in self.events if each["method"] in methods]

    def call(self, method: str, **parameters: Any) -> Json:
        """Call a method of the protocol; events that come before its answer are kept."""
        self._number += 1
        message: Json = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: Json = answer["result"]
                return result
            if "method" in answer:
                self.events.append(answer)

    def _receive(self) -> Json:
        while b"\0" not in self._buffer:
            data = os.read(self._reader, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: Json = json.loads(line)
        return message


def find_chromium() -> str | None:
    """The program, by Debian's name or another's."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A page of a browser of its own. Skips the test where there is none, but not in CI."""
    program = find_chromium()
    if program is None:
        assert "CI" not in os.environ, "chromium is not installed"
        pytest.skip("chromium is not installed")
    to_browser, writer = os.pipe()
    reader, from_browser = os.pipe()

    def connect() -> None:
        # The protocol's pipe is at descriptors 3 and 4.
        os.dup2(to_browser, 60)
        os.dup2(from_browser, 61)
        os.dup2(60, 3)
        os.dup2(61, 4)

    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}"],
        preexec_fn=connect,
        pass_fds=(3, 4),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Page(reader, writer)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        os.close(reader)
        os.close(writer)
