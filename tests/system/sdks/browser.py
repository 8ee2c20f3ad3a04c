"""Chromium without a window, and pages for it from this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

# Names for pages that are not this host's own; there are no others.
NAMES = "MAP *.example.com 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
    "--no-proxy-server", f"--host-resolver-rules={NAMES}",
)  # fmt: skip


class Pages:
    """Serves pages at 127.0.0.1, whatever name is used for it.

    Args:
        pages: (content type, body) by path. ``/to?URL`` leads to a URL.

    Attributes:
        told: What a page has sent to ``/told``, as JSON.
    """

    def __init__(self, pages: Mapping[str, tuple[str, bytes]]) -> None:
        self.told: Any = None
        self._is_told = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, _, target = self.path.partition("?")
                if path == "/to":
                    self.send_response(302)
                    self.send_header("Location", target)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                kind, body = pages.get(path, ("text/plain", b""))
                self.send_response(200 if path in pages else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                outer.told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()
                outer._is_told.set()

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Pages:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def visit(self, url: str, profile: Path, until: Callable[[Any], None]) -> None:
        """Have Chromium open *url* until a page has told something and *until*, called with it, returns.

        Args:
            profile: An empty directory.
        """
        chromium = shutil.which("chromium") or pytest.skip("chromium is not on this machine")
        log = profile.with_suffix(".log")
        with log.open("wb") as output:
            browser = subprocess.Popen(
                [chromium, *OPTIONS, f"--user-data-dir={profile}", url], stdout=output, stderr=output
            )
        try:
            assert self._is_told.wait(40), log.read_text(errors="replace")[-3000:]
            until(self.told)
        finally:
            browser.terminate()
            browser.wait(20)
