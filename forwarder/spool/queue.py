"""A producer's way in: `EventQueue`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from forwarder.records import EVENTS
from forwarder.records.event import encode
from forwarder.spool.sqlite import schema
from forwarder.spool.sqlite.appending import append
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.directory import DATABASE, LOG, size_of
from forwarder.spool.sqlite.errors import SpoolFullError, full, translated
from forwarder.spool.sqlite.status import READY

GIB = 1024**3


class EventQueue:
    """The queue in a directory, for programs that hand events over.

    Usable from several threads and processes at once, after a fork, and as a context manager. When a
    call has returned, its events are on disk; when it has raised, none of them is.

    Args:
        path: The queue's directory; made if missing.
        max_bytes: Refuse events once the queue takes this much disk.
        min_free_bytes: Refuse events when the disk has less than this free.
        lock_timeout_s: How long to wait for other writers.
        rules: Whether events are held to Mixpanel's rules, or only to an event's structure.

    Raises:
        ConfigError: there is a database in *path* that is not a queue.
        NotPermittedError: this user may not write there.
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
        self._options = {
            "max_bytes": max_bytes,
            "min_free_bytes": min_free_bytes,
            "lock_timeout_s": lock_timeout_s,
            "rules": rules,
        }
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._rules = rules
        self._queue = Database(os.fspath(path), timeout=lock_timeout_s)
        self.path = self._queue.path

    def put(self, event: Mapping[str, Any]) -> int:
        """Store one event durably.

        Args:
            event: ``{"event": name, "properties": {...}}``; ``time`` and ``$insert_id`` are filled in
                where they are missing.

        Returns:
            the id of its row.

        Raises:
            EventError: the event is refused, with the reason.
            TryAgainError: the queue is full, or locked for too long; or it is a signal handler that calls,
                which has interrupted a call of this queue.
            StorageError: the disk answers with an error.
        """
        record = EVENTS.accept(encode(event), _now_ms(), self._rules)
        self._check_room(len(record))
        return append(self._queue, [record], READY)

    def put_many(self, events: Iterable[Mapping[str, Any]]) -> int:
        """Store events durably: all of them, or none. Raises as `put` does; returns how many."""
        now_ms = _now_ms()
        return self.append([EVENTS.accept(encode(event), now_ms, self._rules) for event in events])

    def append(self, records: Sequence[bytes]) -> int:
        """Store what ``forwarder.records.EVENTS.accept`` has returned: all of it durably, or nothing.

        Returns:
            how many.

        Raises:
            TryAgainError, StorageError: as `put`.
        """
        if not records:
            return 0
        self._check_room(sum(map(len, records)))
        append(self._queue, records, READY)
        return len(records)

    def close(self) -> None:
        """Close the files; a later call opens them again."""
        self._queue.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process opens the queue there."""
        return _again, (self.path, self._options)

    def __enter__(self) -> EventQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_room(self, size_bytes: int) -> None:
        self._queue.connect()
        with translated(self.path):
            try:
                disk = os.statvfs(self.path)
            except FileNotFoundError:
                return  # gone since it was opened: the next transaction makes it anew
            log_bytes = size_of(self.path, LOG)
            used_bytes = size_of(self.path, DATABASE) + log_bytes
        free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes < self._min_free_bytes:
            raise SpoolFullError(
                f"the disk under {self.path} has {free_bytes:,} bytes free, less than queue.min_free_bytes "
                f"({self._min_free_bytes:,})",
                "Nothing was stored; what was accepted before is safe. Make room, or lower the setting",
            )
        # All that is in the log has to find room in the database too, or nothing could be settled any more.
        if free_bytes < log_bytes + size_bytes:
            raise full(self.path)
        if used_bytes >= self._max_bytes:
            # Another thread may close the connection meanwhile, by close() or by a fork.
            with self._queue.alone(), translated(self.path):
                used_bytes = schema.used_bytes(self._queue.connect())
            if used_bytes >= self._max_bytes:
                raise SpoolFullError(
                    f"the queue in {self.path} takes {used_bytes:,} bytes, as much as queue.max_bytes allows "
                    f"({self._max_bytes:,})",
                    "Nothing was stored; try again when the daemon has delivered some",
                )


def _again(path: str, options: dict[str, Any]) -> EventQueue:
    return EventQueue(path, **options)


def _now_ms() -> int:
    return int(time.time() * 1000)
