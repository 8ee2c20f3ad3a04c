"""The same verbs for a sandbox in another process."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from forwarder.sandbox.ledger import Entry, Exchange

_TIMEOUT_S = 60.0


class RemoteLedger:
    """The ledger of a remote sandbox, with the names of `Ledger`.

    The figures are as of the creation of this object; ``events`` and ``requests`` are fetched when read.
    """

    def __init__(self, url: str, figures: dict[str, int]) -> None:
        self._url = url
        self.version = figures["version"]
        self.accepted = figures["accepted"]
        self.repeats = figures["repeats"]
        self.reused = figures["reused"]
        self.altered = figures["altered"]
        self.request_count = figures["requests"]
        self.in_progress = figures["in_progress"]

    @property
    def events(self) -> dict[str, Entry]:
        """All that was taken, by ``$insert_id``, with its bytes if the sandbox keeps them."""
        entries = {}
        for line in _ask(self._url + "/sandbox/ledger/events?data=1").splitlines():
            entry = json.loads(line)
            data = entry["data"].encode("utf-8", "surrogateescape")
            entries[entry["insert_id"]] = Entry(data, entry["sha256"], entry["copies"], entry["changed"])
        return entries

    @property
    def requests(self) -> list[Exchange]:
        """The records of the last requests, oldest first."""
        return [Exchange(**json.loads(line)) for line in _ask(self._url + "/sandbox/requests").splitlines()]


class RemoteSandbox:
    """A remote sandbox, controlled over HTTP.

    Args:
        url: As the sandbox printed it.

    Raises:
        OSError: from every method, if it is not reachable.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @property
    def ledger(self) -> RemoteLedger:
        """The ledger as it is now."""
        return RemoteLedger(self.url, json.loads(_ask(self.url + "/sandbox/ledger")))

    def inject(self, fault: str, **settings: Any) -> None:
        """Inject the fault of that name. *settings* are its own and ``times``, ``for_s``, ``chance`` and
        ``seed``, as with `Sandbox.inject`.

        Raises:
            ValueError: there is no such fault or setting.
        """
        _ask(self.url + "/sandbox/faults", "POST", json.dumps({"fault": fault, **settings}).encode())

    def clear(self) -> None:
        """Clear all faults, and release hanging requests."""
        _ask(self.url + "/sandbox/faults", "DELETE")

    def release(self) -> None:
        """Release the requests that hang now."""
        _ask(self.url + "/sandbox/release", "POST")

    def wait_for(self, predicate: Callable[[RemoteLedger], bool], timeout_s: float = 10.0) -> None:
        """Wait until *predicate* is true for the ledger; it is called after each change.

        Raises:
            TimeoutError: with the ledger's figures.
        """
        deadline = time.monotonic() + timeout_s
        ledger = self.ledger
        while not predicate(ledger):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"not so after {timeout_s:g} s: {vars(ledger)}")
            query = f"after={ledger.version}&timeout_s={min(left_s, _TIMEOUT_S / 2):.3f}"
            figures = json.loads(_ask(f"{self.url}/sandbox/ledger?{query}"))
            ledger = RemoteLedger(self.url, figures)


def _ask(url: str, method: str = "GET", body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data=body, method=method)  # noqa: S310 - the caller's URL
    # Without the environment's proxies: the sandbox is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        with error:
            raise ValueError(f"{method} {url}: {json.loads(error.read())['error']}") from None
