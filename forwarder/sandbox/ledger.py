"""What the sandbox got: the other half of the books, for comparison."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forwarder.sandbox.rules import Event

KEPT_REQUESTS = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``$insert_id`` that was taken.

    Attributes:
        data: The bytes of the first copy; empty if the ledger keeps only hashes.
        sha256: Their hash, in hexadecimal.
        copies: How many came, the first included.
        changed: Whether any later copy differed in its bytes.
    """

    data: bytes
    sha256: str
    copies: int
    changed: bool


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came of it.

    Attributes:
        at: When it was settled, in seconds since the epoch.
        method, path: As asked; the path with its query.
        connection: The client's port: the same for all requests of one connection.
        status: As answered; 0 if there was no answer.
        fault: The names of the faults that applied, joined by ``+``; empty if none did.
        events: How many the request had, as far as it could be read.
        new, repeats, failed: What became of them.
        is_probe: Whether it was one event without a name and anything else, which a client sends to check
            its key.
        size_bytes: The body, uncompressed; `wire_bytes`: as it came.
        at_once: How many requests were in progress, this one included.
        took_s: From the request's headers to the answer.
    """

    at: float
    method: str
    path: str
    connection: int
    status: int
    fault: str
    events: int
    new: int
    repeats: int
    failed: int
    is_probe: bool
    size_bytes: int
    wire_bytes: int
    at_once: int
    took_s: float


class Ledger:
    """Every event taken, by ``$insert_id``, and every request; any thread may read it at any time.

    To wait, use `accepted`, `repeats`, `reused`, ``len(ledger.requests)`` and `request_count`; `events`
    copies the whole ledger.

    Args:
        keep_data: False keeps only 32 bytes of each event.
    """

    def __init__(self, keep_data: bool = True) -> None:
        # Re-entrant, so that a waiting predicate can read the properties.
        self._moved = threading.Condition(threading.RLock())
        self._keep_data = keep_data
        self._first: dict[str, bytes] = {}
        self._identities: dict[str, int] = {}
        self._copies: dict[str, int] = {}
        self._altered: set[str] = set()
        self._twins: dict[str, set[int]] = {}
        self._requests: deque[Exchange] = deque(maxlen=KEPT_REQUESTS)
        self._repeats = self._reused = self._request_count = self._version = 0
        self._in_progress = 0

    def take(self, events: Sequence[Event]) -> tuple[int, int]:
        """Enter *events*.

        Returns:
            how many were new and how many were repeats to Mixpanel.
        """
        kept = None if self._keep_data else [hashlib.sha256(event.data).digest() for event in events]
        with self._moved:
            known, identities, repeats = self._first, self._identities, 0
            for position, (_, insert_id, data, _, identity) in enumerate(events):
                if kept is not None:
                    data = kept[position]
                if insert_id in known:
                    repeats += self._repeat(insert_id, data, identity)
                else:
                    known[insert_id] = data
                    identities[insert_id] = identity
            self._repeats += repeats
            self._notify()
        return len(events) - repeats, repeats

    def _repeat(self, insert_id: str, data: bytes, identity: int) -> int:
        self._copies[insert_id] = self._copies.get(insert_id, 1) + 1
        if data != self._first[insert_id]:
            self._altered.add(insert_id)
        if identity == self._identities[insert_id]:
            return 1
        twins = self._twins.setdefault(insert_id, set())
        if identity in twins:
            return 1
        twins.add(identity)
        self._reused += 1
        return 0

    def begin(self) -> int:
        """A request has started; returns how many are now in progress."""
        with self._moved:
            self._in_progress += 1
            self._notify()
            return self._in_progress

    def end(self) -> None:
        """A request has ended."""
        with self._moved:
            self._in_progress -= 1
            self._notify()

    def enter(self, exchange: Exchange) -> None:
        """Keep the record of a request."""
        with self._moved:
            self._requests.append(exchange)
            self._request_count += 1
            self._notify()

    def _notify(self) -> None:
        self._version += 1
        self._moved.notify_all()

    @property
    def accepted(self) -> int:
        """How many different events Mixpanel would show."""
        with self._moved:
            return len(self._first) + self._reused

    @property
    def repeats(self) -> int:
        """How many copies Mixpanel would drop."""
        return self._repeats

    @property
    def reused(self) -> int:
        """How many came with a known ``$insert_id`` but another event, distinct_id or time."""
        return self._reused

    @property
    def altered(self) -> int:
        """How many ``$insert_id`` had a later copy with different bytes."""
        return len(self._altered)

    @property
    def in_progress(self) -> int:
        """How many requests wait for their answer."""
        return self._in_progress

    @property
    def request_count(self) -> int:
        """How many requests there were; `requests` keeps the last 100 000."""
        return self._request_count

    @property
    def events(self) -> dict[str, Entry]:
        """A copy of all that was taken, by ``$insert_id``, in order of arrival."""
        with self._moved:
            first, copies, altered = dict(self._first), dict(self._copies), set(self._altered)
        entries = {}
        for insert_id, data in first.items():
            digest = hashlib.sha256(data).hexdigest() if self._keep_data else data.hex()
            shown = data if self._keep_data else b""
            entries[insert_id] = Entry(shown, digest, copies.get(insert_id, 1), insert_id in altered)
        return entries

    @property
    def requests(self) -> list[Exchange]:
        """A copy of the records of the last requests, oldest first."""
        with self._moved:
            return list(self._requests)

    def figures(self) -> dict[str, int]:
        """The counts, taken at one moment; ``version`` grows with each change."""
        with self._moved:
            return {
                "version": self._version,
                "accepted": self.accepted,
                "repeats": self.repeats,
                "reused": self.reused,
                "altered": self.altered,
                "requests": self.request_count,
                "in_progress": self.in_progress,
            }

    def wait_for(self, predicate: Callable[[Ledger], bool], timeout_s: float = 10.0) -> None:
        """Wait until *predicate* is true; it is called after each change, while the ledger is locked.

        Raises:
            TimeoutError: with the figures.
        """
        deadline = time.monotonic() + timeout_s
        with self._moved:
            while not predicate(self):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"not so after {timeout_s:g} s: {self.figures()}")
                self._moved.wait(left_s)
