"""A queue's place, and a program's way into it: `EventQueue`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forwarder.errors import EventError
from forwarder.records import EVENTS, KINDS
from forwarder.records.event import encode
from forwarder.spool.engine import Producer, Spool
from forwarder.spool.sqlite import engine as embedded

if TYPE_CHECKING:
    from forwarder.records.kind import Kind

GIB = 1024**3


def at(place: str | os.PathLike[str], kind: Kind = EVENTS) -> Spool:
    """The records of a *kind* in the queue at a *place*, a directory. Nothing is opened yet."""
    return embedded.Spool(os.fspath(place), kind)


def each(place: str | os.PathLike[str]) -> list[Spool]:
    """The queue at a *place*, once for each kind; events are the first."""
    return [at(place, kind) for kind in KINDS.values()]


class EventQueue:
    """The queue in a directory, for programs that hand events over.

    Several threads and processes may use it at once, also after a fork, and as a context manager. When a
    call returns, its events are on disk. When it raises, none of them is.

    Args:
        path: The queue's directory; created if missing.
        max_bytes: Refuse events if the queue would be larger than this on disk.
        min_free_bytes: Refuse events if the disk has less than this free.
        lock_timeout_s: How long to wait for other writers.
        rules: Whether Mixpanel's rules are checked, or only an event's structure.

    Raises:
        ConfigError: there is a database in *path* that is not a queue.
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
    ) -> None:
        self._limits: dict[str, Any] = {
            "max_bytes": max_bytes,
            "min_free_bytes": min_free_bytes,
            "lock_timeout_s": lock_timeout_s,
        }
        self._rules = rules
        self.path = at(path).place
        self._producer = at(self.path).producer(**self._limits)
        self._others: dict[str, Producer] = {}

    def _producer_of(self, kind: Kind) -> Producer:
        """Made when needed: each has the queue's files open."""
        if kind is EVENTS:
            return self._producer
        found = self._others.get(kind.name)
        return found or self._others.setdefault(kind.name, at(self.path, kind).producer(**self._limits))

    def put(self, event: Mapping[str, Any]) -> int:
        """Store one event durably.

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
        return self._producer_of(kind).append([self._accepted(kind, record, _now_ms())])

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

    def close(self) -> None:
        """Close the files; a later call opens them again."""
        for producer in (self._producer, *self._others.values()):
            producer.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process opens the queue in that process."""
        return _again, (self.path, self._limits | {"rules": self._rules})

    def __enter__(self) -> EventQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _again(path: str, options: dict[str, Any]) -> EventQueue:
    return EventQueue(path, **options)


def _now_ms() -> int:
    return int(time.time() * 1000)
