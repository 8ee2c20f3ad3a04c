"""A program's way into a queue: `EventQueue`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from forwarder import lazy
from forwarder.errors import EventError
from forwarder.records import EVENTS, KINDS
from forwarder.records.event import encode
from forwarder.spool.ids import Run, joined, runs_of
from forwarder.spool.place import SCHEMES, at

if TYPE_CHECKING:
    from forwarder.records.kind import Kind
    from forwarder.spool.engine import Producer, Spool
    from forwarder.spool.values import Receipt

lazy.load("forwarder.records.event")

GIB = 1024**3
# How long to wait before looking again: at first, and at most. With one look, of so many runs of ids.
POLL_S, POLL_MOST_S, POLL_RUNS = 0.1, 1.0, 1000

Ids = int | Iterable[int] | Iterable[Run]


class EventQueue:
    """The queue in a directory or on a server, for programs that hand events over.

    Several threads and processes may use it at once, also after a fork, and as a context manager. When a
    call returns, its events are on disk. When it raises, none of them is; but a server that does not answer
    in time may have them all the same.

    Args:
        path: The queue's directory; created if missing. Or the URL of a PostgreSQL server, as ``queue.url``
            in the settings; then there is a queue already (`forwarder setup`).
        max_bytes: Refuse events if the queue would be larger than this on disk.
        min_free_bytes: Refuse events if the disk has less than this free; not known of a server.
        lock_timeout_s: How long to wait for other writers, or for the server.
        rules: Whether Mixpanel's rules are checked, or only an event's structure.
        schema: On a server, the schema that is the queue.
        password_file: The file with the password for the server; "": libpq finds it.

    Attributes:
        path: The queue's directory; the place of one on a server, for people.

    Raises:
        ConfigError: there is a database in *path* that is not a queue; or the settings would not take the
            URL, the schema or the password's file, or psycopg is not installed.
        NotPermittedError: this user has no permission to write there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "/var/lib/forwarder",
        *,
        max_bytes: int = 10 * GIB,
        min_free_bytes: int = GIB // 4,
        lock_timeout_s: float = 10.0,
        rules: bool = True,
        schema: str = "forwarder",
        password_file: str = "",
    ) -> None:
        self._limits: dict[str, Any] = {
            "max_bytes": max_bytes,
            "min_free_bytes": min_free_bytes,
            "lock_timeout_s": lock_timeout_s,
        }
        self._rules = rules
        self._on_server: dict[str, Any] = {"schema": schema, "password_file": password_file}
        spool = at(path, **self._on_server)
        self.path = spool.place
        self._url = url if (url := os.fspath(path)).startswith(SCHEMES) else ""
        self._producer = spool.producer(**self._limits)
        self._others: dict[str, Producer] = {}

    def _producer_of(self, kind: Kind) -> Producer:
        """Made when needed: each has the queue's files open."""
        if kind is EVENTS:
            return self._producer
        found = self._others.get(kind.name)
        if not found:
            found = self._others.setdefault(kind.name, self._at(kind).producer(**self._limits))
        return found

    def put(self, event: Mapping[str, Any]) -> int:
        """Store one event durably. `where` and `wait` say what becomes of it, by its id.

        Args:
            event: ``{"event": name, "properties": {...}}``. A missing ``time`` or ``$insert_id`` is filled
                in. An aware datetime, a date, a Decimal, a UUID, a member of an Enum and a scalar of numpy
                are converted.

        Returns:
            the id of its row.

        Raises:
            EventError: the event is refused, with the reason.
            TryAgainError: the queue is full, or locked for too long; or a signal handler calls that has
                interrupted a call of this queue.
            StorageError: the disk reports an error.
        """
        return self._put(EVENTS, event)

    def put_profile(self, update: Mapping[str, Any]) -> int:
        """Store one update of a user's profile durably. Returns the id of its row.

        Updates of a profile are delivered in the order in which they were stored; see the documents for what
        is promised of ``$add`` and ``$append``.

        Args:
            update: As Mixpanel documents it: ``{"$token": ..., "$distinct_id": ..., "$set": {...}}``, with
                one operation. A missing ``$time`` is filled in. Values are converted as by `put`.

        Raises: as `put`.
        """
        return self._put(KINDS["profile"], update)

    def put_group(self, update: Mapping[str, Any]) -> int:
        """Store one update of a group's profile durably. Returns the id of its row.

        Args:
            update: ``{"$token": ..., "$group_key": ..., "$group_id": ..., "$set": {...}}``, with one
                operation; otherwise as `put_profile`.

        Raises: as `put`.
        """
        return self._put(KINDS["group"], update)

    def _put(self, kind: Kind, record: Mapping[str, Any]) -> int:
        return self._producer_of(kind).append([self._accepted(kind, record, _now_ms())])[0]

    def put_many(self, events: Iterable[Mapping[str, Any]]) -> int:
        """Store events durably, all or none. Returns how many.

        Raises as `put` does; the message has a refused event's index, from 0.
        """
        now_ms, records = _now_ms(), []
        for event in events:
            try:
                records.append(self._accepted(EVENTS, event, now_ms))
            except EventError as error:
                raise EventError(f"events[{len(records)}]: {error}; nothing was stored") from None
        return self.append(records)

    def _accepted(self, kind: Kind, record: Mapping[str, Any], now_ms: int) -> bytes:
        try:
            return kind.accept(encode(record), now_ms, self._rules)
        except EventError as error:
            self._producer_of(kind).refuse({kind.word_for(str(error)): 1})
            raise

    def append(self, records: Sequence[bytes]) -> int:
        """Store what ``forwarder.records.EVENTS.accept`` has returned, durably, all or none.

        Returns:
            how many.

        Raises:
            TryAgainError, StorageError: as `put`.
        """
        if records:
            self._producer.append(records)
        return len(records)

    def where(self, ids: Ids, *, kind: str = "event") -> list[Receipt]:
        """What became of records: where each of them is now, in the order of ids, each id once.

        Args:
            ids: An id, several, or runs of them as pairs of the first and the last.
            kind: "event", "profile" or "group".

        Raises:
            NoQueueError: there is no queue yet.
            TryAgainError, StorageError, NotPermittedError: it can't be read now, or by this user.
        """
        with self._at(KINDS[kind]).view() as view:
            return view.receipts(_runs(ids))

    def wait(self, ids: Ids, timeout_s: float | None = None, *, kind: str = "event") -> list[Receipt]:
        """Wait until none of these records is in the queue any more, or the time is up. Returns what `where`
        returns then.

        Held ones are in the queue. One that was retried or released since has another id there, which its
        receipt names.

        Args:
            ids, kind: As for `where`.
            timeout_s: In seconds; None: however long it takes.

        Raises: as `where`.
        """
        runs = _runs(ids)
        wait(self._at(KINDS[kind]), runs, timeout_s)
        return self.where(runs, kind=kind)

    def _at(self, kind: Kind) -> Spool:
        return at(self._url or self.path, kind, **self._on_server)

    def close(self) -> None:
        """Close the files; a later call opens them again."""
        for producer in (self._producer, *self._others.values()):
            producer.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process opens the queue in that process."""
        return _again, (self._url or self.path, self._limits | self._on_server | {"rules": self._rules})

    def __enter__(self) -> EventQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait(queue: Spool, runs: Sequence[Run], timeout_s: float | None = None) -> bool:
    """Wait until none of the records with these ids is in the *queue*. False: the time is up.

    Raises: as `Spool.view`, and `TryAgainError` or `StorageError` if it can't be read.
    """
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    pause_s = POLL_S
    # The oldest first: while they wait, there is no need to look for the others.
    for start in range(0, len(runs), POLL_RUNS):
        part = runs[start : start + POLL_RUNS]
        while _are_there(queue, part):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, POLL_MOST_S)
    return True


def _are_there(queue: Spool, runs: Sequence[Run]) -> bool:
    # Opened each time, so that what replaces a damaged database is seen.
    with queue.view() as view:
        return view.waits(runs)


def _runs(ids: Ids) -> list[Run]:
    if isinstance(ids, range) and ids.step == 1:
        return runs_of(ids)
    return joined(map(_run, ids if isinstance(ids, Iterable) else [ids]))


def _run(given: int | Run) -> Run:
    # An id may be of numpy, as those in a column of a data frame.
    first, last = map(index, given if isinstance(given, (tuple, list)) else (given, given))
    if first > last:
        raise ValueError(f"{given!r} is no run of ids: the first comes first")
    return first, last


def _again(path: str, options: dict[str, Any]) -> EventQueue:
    return EventQueue(path, **options)


def _now_ms() -> int:
    return int(time.time() * 1000)
