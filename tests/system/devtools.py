"""Chromium without a window, driven by its DevTools protocol over a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.system.sdks.browser import OPTIONS

TIMEOUT_S = 40


class Browser:
    """A Chromium of its own, and one tab of it.

    Args:
        profile: An empty directory.

    Attributes:
        events: What the tab has reported, as (method, parameters), in order.
    """

    def __init__(self, profile: Path) -> None:
        chromium = shutil.which("chromium") or pytest.skip("chromium is not on this machine")
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._numbers = count(1)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Above 3 and 4, where it wants them.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]
        command = (chromium, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank")
        with profile.with_suffix(".log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", *command],
                stdout=log,
                stderr=log,
                pass_fds=ends,
            )
        for fd in (theirs_in, theirs_out, *ends):
            os.close(fd)
        self._tab = self._session = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def open_tab(self) -> None:
        """Go on in a new tab, which has reported nothing; the one before is closed."""
        before, self._session = self._tab, ""
        self._tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        if before:
            self.call("Target.closeTarget", targetId=before)
        self.events.clear()
        self._session = self.call("Target.attachToTarget", targetId=self._tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _read(self) -> None:
        with open(self._in, "rb") as stream:
            rest = b""
            while more := stream.read1(65536):
                *messages, rest = (rest + more).split(b"\0")
                with self._news:
                    for message in map(json.loads, messages):
                        if "id" in message:
                            self._answers[message["id"]] = message
                        elif message.get("sessionId") == self._session:
                            self.events.append((message["method"], message["params"]))
                    self._news.notify_all()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; returns its result."""
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": number, "method": method, "params": parameters, **session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        with self._news:
            assert self._news.wait_for(lambda: number in self._answers, TIMEOUT_S), method
            answer = self._answers.pop(number)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def reported(self, *methods: str) -> list[dict[str, Any]]:
        """The parameters of the events with these names so far."""
        with self._news:
            return [parameters for method, parameters in self.events if method in methods]

    def open(self, url: str) -> None:
        """Load a page, and wait until it is there."""
        before = len(self.reported("Page.loadEventFired"))
        self.call("Page.navigate", url=url)
        with self._news:
            assert self._news.wait_for(
                lambda: sum(method == "Page.loadEventFired" for method, _ in self.events) > before, TIMEOUT_S
            ), url

    def value(self, script: str) -> Any:
        """What an expression of JavaScript gives in the page, waited for if it is a promise."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key, such as Tab (9), that writes *text*."""
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text
            )

    def prefer(self, scheme: str) -> None:
        """Be used by somebody who prefers this colour scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def look(self, width: int) -> None:
        """Be a window of that width."""
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )

    def close(self) -> None:
        """End it."""
        os.close(self._out)
        self._process.terminate()
        self._process.wait(20)
        self._reader.join(20)
