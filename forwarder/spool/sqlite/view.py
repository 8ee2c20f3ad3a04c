"""Looking at the queue without touching it: read-only, in short reads, whatever the daemon does."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self
from urllib.parse import quote

from forwarder.records import EVENTS
from forwarder.spool import engine
from forwarder.spool.errors import NoQueueError, UnusedQueueError
from forwarder.spool.sqlite import control, refused, schema
from forwarder.spool.sqlite.dead_letters import DeadLetters, as_bytes
from forwarder.spool.sqlite.directory import DATABASE, LOG, refuse_links, size_of
from forwarder.spool.sqlite.errors import damaged, has_no_space, translated
from forwarder.spool.sqlite.room import is_emptied
from forwarder.spool.values import Figures, Finding, Waiting

RATE_WINDOW_S = 60.0
_NEWEST_DELIVERIES = 20_000
_START_BYTES = 4096
_PEEK = (
    f"SELECT _id, iif(length(data) > {EVENTS.max_bytes}, substr(data, 1, {_START_BYTES}), data), put_at,"
    f" status, length(data) FROM ({schema.ROW}) WHERE _id > ? ORDER BY _id LIMIT ?"
)


class View(DeadLetters, engine.View):
    """The queue in a directory, read-only; a lock on it is waited for *timeout_s* at most.

    Attributes:
        is_frozen: The disk is full, and what is seen is what was there when this was opened.

    Raises:
        NoQueueError: there is none yet.
        NotPermittedError: this user may not look.
        ConfigError: the database there is not a queue.
    """

    def __init__(self, path: str, timeout_s: float = 10.0) -> None:
        # The program may go to another directory.
        self.path = path = os.path.abspath(path)
        self._file = os.path.join(path, DATABASE)
        self.is_frozen = False
        with translated(path):
            try:
                refuse_links(self._file)
            except FileNotFoundError:
                raise NoQueueError(f"there is no queue in {path} yet", "The first event makes it") from None
            # To read from an empty file is enough for SQLite to delete the log beside it.
            if is_emptied(path):
                raise damaged(path, "it has lost its content")
            self.connection = self._opened(timeout_s)
            try:
                try:
                    self._verify()
                except sqlite3.OperationalError:
                    # On a full disk the log's index can't be made, nor is it needed where there is no log.
                    if size_of(path, LOG) or not has_no_space(path):
                        raise
                    self.connection.close()
                    self.is_frozen = True
                    self.connection = self._opened(timeout_s, "&immutable=1")
                    self._verify()
            except BaseException as error:
                self.connection.close()
                if getattr(error, "sqlite_errorname", "") == "SQLITE_READONLY_ROLLBACK":
                    what = f"the making of the queue in {path} was cut short"
                    raise NoQueueError(what, "The next event, or `forwarder run`, completes it") from error
                raise

    def _opened(self, timeout_s: float, how: str = "") -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(self._file)}?mode=ro{how}", uri=True, isolation_level=None, timeout=timeout_s
        )

    def _verify(self) -> None:
        if not schema.is_ours(self.connection):
            schema.refuse_others(self.connection, self._file)
            raise UnusedQueueError(
                f"the queue in {self.path} has not been used by the forwarder yet",
                "`forwarder run` or `forwarder enqueue` will adopt it as it is",
            )

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def figures(self) -> Figures:
        with self._reading():
            row = self.connection.execute(
                f"SELECT {schema.SEQUENCE} - baseline, delivered, dead_lettered, deleted, retried, discarded,"
                " short, last_delivery_at, created_at,"
                f" (SELECT {schema.PUT_AT} FROM {schema.TABLE} ORDER BY _id LIMIT 1) FROM ledger"
            ).fetchone()
            rate = self._rate(time.time())
        if row is None:
            raise damaged(self.path, "it has lost its books")
        accepted, delivered, dead_lettered, deleted, retried, discarded, short, last, created, oldest = row
        disk = os.statvfs(self.path)
        return Figures(
            accepted=accepted,
            delivered=delivered,
            dead_lettered=dead_lettered,
            deleted=deleted,
            waiting=accepted - delivered - dead_lettered - deleted,
            dead_letters=dead_lettered - retried - discarded,
            retried=retried,
            discarded=discarded,
            short=short,
            paused=control.asked(self.path).paused,
            oldest_waiting_at=oldest,
            last_delivery_at=last,
            rate_1m=rate,
            db_bytes=size_of(self.path, DATABASE),
            wal_bytes=size_of(self.path, LOG),
            disk_free_bytes=disk.f_bavail * disk.f_frsize,
            created_at=created,
        )

    def peek(self, count: int, after_id: int = 0) -> list[Waiting]:
        """Of what is too large for an event, the first bytes."""
        return [
            Waiting(row_id, as_bytes(start), at or 0.0, status, len(as_bytes(None)) if size is None else size)
            for row_id, start, at, status, size in self._rows(_PEEK, (after_id, count))
        ]

    def check(self) -> list[Finding]:
        from forwarder.spool.sqlite import books

        return books.check(self)

    def refused(self) -> dict[str, int]:
        with self._reading():
            return refused.read(self.connection)

    def used_bytes(self) -> int:
        with translated(self.path):
            return schema.used_bytes(self.connection)

    def _rate(self, now: float) -> float:
        (count,) = self.connection.execute(
            "SELECT coalesce(sum(delivered), 0) FROM (SELECT delivered, settled_at FROM deliveries"
            " ORDER BY id DESC LIMIT ?) WHERE settled_at BETWEEN ? AND ?",
            (_NEWEST_DELIVERIES, now - RATE_WINDOW_S, now),
        ).fetchone()
        return float(count) / RATE_WINDOW_S

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with translated(self.path):
            self.connection.execute("BEGIN")
            try:
                yield
            finally:
                self.connection.execute("COMMIT")
