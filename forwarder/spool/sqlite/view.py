"""Reading the queue without changing it: read-only, in short reads, whatever the daemon does."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self
from urllib.parse import quote

from forwarder.spool import engine
from forwarder.spool.errors import NoQueueError, UnusedQueueError
from forwarder.spool.history import Period
from forwarder.spool.sqlite import control, history, refused, schema
from forwarder.spool.sqlite.dead_letters import DeadLetters
from forwarder.spool.sqlite.directory import DATABASE, LOG, refuse_links, size_of
from forwarder.spool.sqlite.errors import damaged, has_no_space, translated
from forwarder.spool.sqlite.places import Places
from forwarder.spool.sqlite.room import is_emptied
from forwarder.spool.sqlite.tables import OF_EVENTS, PUT_AT, Tables
from forwarder.spool.sqlite.waiting import WaitingEvents
from forwarder.spool.values import Figures, Finding

RATE_WINDOW_S = 60.0
_NEWEST_DELIVERIES, _NEWEST_REQUESTS = 20_000, 1000
_TOTALS = (
    "delivered", "dead_lettered", "deleted", "held", "retried", "discarded", "short", "last_delivery_at",
)  # fmt: skip


# As ``1-2000,2003``, of at most as many digits as an id has.
_ids = re.compile(r"(?<!\d)\d{1,16}(?!\d)").findall


class View(DeadLetters, WaitingEvents, Places, engine.View):
    """The records of a kind in a directory, those of *tables*, read-only.

    It waits *timeout_s* at most for a lock.

    Attributes:
        is_frozen: The disk is full, so this shows the state when it was opened.

    Raises:
        NoQueueError: there is none yet.
        NotPermittedError: this user has no permission to read it.
        ConfigError: the database there is not a queue.
    """

    def __init__(self, path: str, timeout_s: float = 10.0, tables: Tables = OF_EVENTS) -> None:
        # The program may change its working directory.
        self.path = path = os.path.abspath(path)
        self.tables = tables
        self._file = os.path.join(path, DATABASE)
        self.is_frozen = False
        with translated(path):
            try:
                refuse_links(self._file)
            except FileNotFoundError:
                raise NoQueueError(f"there is no queue in {path} yet", "The first event makes it") from None
            # If SQLite reads an empty database, it deletes the log beside it.
            if is_emptied(path):
                raise damaged(path, "it is empty")
            self.connection = self._opened(timeout_s)
            try:
                try:
                    self._verify()
                except sqlite3.OperationalError:
                    # On a full disk the log's index can't be made; without a log it is not needed.
                    if size_of(path, LOG) or not has_no_space(path):
                        raise
                    self.connection.close()
                    self.is_frozen = True
                    self.connection = self._opened(timeout_s, "&immutable=1")
                    self._verify()
            except BaseException as error:
                self.connection.close()
                if getattr(error, "sqlite_errorname", "") == "SQLITE_READONLY_ROLLBACK":
                    what = f"the creation of the queue in {path} was interrupted"
                    raise NoQueueError(what, "The next event, or `forwarder run`, completes it") from error
                raise

    def _opened(self, timeout_s: float, how: str = "") -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(self._file)}?mode=ro{how}", uri=True, isolation_level=None, timeout=timeout_s
        )

    def _verify(self) -> None:
        version = schema.version_of(self.connection)
        if version < schema.VERSION:
            if not version:
                schema.refuse_others(self.connection, self._file)
            by = "this version of the forwarder" if version else "the forwarder"
            raise UnusedQueueError(
                f"the queue in {self.path} has not been used by {by} yet",
                "`forwarder run` or `forwarder enqueue` adopts it as it is",
            )
        kind = self.tables.kind
        self.connection.create_function(
            "is_named", 2, lambda data, name: kind.name_of(data)[0] == name, deterministic=True
        )
        self.connection.create_function(
            "has_id", 2, lambda data, insert_id: kind.name_of(data)[1] == insert_id, deterministic=True
        )
        self.connection.create_function("concerns", 2, kind.concerns, deterministic=True)

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def figures(self) -> Figures:
        tables = self.tables
        with self._reading():
            row = self.connection.execute(
                f"SELECT {', '.join(_TOTALS)}, {tables.sequence} - baseline,"
                f" (SELECT {PUT_AT} FROM {tables.queue} ORDER BY _id LIMIT 1) FROM {tables.ledger}"
            ).fetchone()
            if row is None:
                raise damaged(self.path, "the totals table is empty")
            now = time.time()
            rate, accepted_rate, took_s = self._rate(now), self._accepted_rate(now), self._took_s(now)
        *totals, accepted, oldest_at = row
        found = dict(zip(_TOTALS, totals, strict=True))
        disk = os.statvfs(self.path)
        return Figures(
            **found,
            accepted=accepted,
            waiting=accepted - found["delivered"] - found["dead_lettered"] - found["deleted"],
            dead_letters=found["dead_lettered"] - found["retried"] - found["discarded"],
            paused=control.asked(self.path).paused,
            oldest_waiting_at=oldest_at,
            rate_1m=rate,
            accepted_1m=accepted_rate,
            took_s=took_s,
            db_bytes=size_of(self.path, DATABASE),
            wal_bytes=size_of(self.path, LOG),
            disk_free_bytes=disk.f_bavail * disk.f_frsize,
        )

    def check(self) -> list[Finding]:
        from forwarder.spool.sqlite import books

        return books.check(self)

    def refused(self) -> dict[str, int]:
        with self._reading():
            return refused.read(self.connection, self.tables)

    def history(self, count: int, *, hourly: bool = False) -> list[Period]:
        with self._reading():
            return history.read(self.connection, self.tables, hourly, count)

    def used_bytes(self) -> int:
        with translated(self.path):
            return schema.used_bytes(self.connection)

    def _latest(self, columns: str) -> str:
        """The newest entries of the delivery log, with these columns: SQLite reads all that are named."""
        return f"SELECT {columns}, settled_at FROM {self.tables.deliveries} ORDER BY id DESC LIMIT ?"

    def _rate(self, now: float) -> float:
        (count,) = self.connection.execute(
            f"SELECT coalesce(sum(delivered), 0) FROM ({self._latest('delivered')})"
            " WHERE settled_at BETWEEN ? AND ?",
            (_NEWEST_DELIVERIES, now - RATE_WINDOW_S, now),
        ).fetchone()
        return float(count) / RATE_WINDOW_S

    def _took_s(self, now: float) -> list[float]:
        query = (
            f"SELECT took_s FROM ({self._latest('took_s, http_status')})"
            " WHERE http_status IS NOT NULL AND typeof(took_s) = 'real' AND settled_at BETWEEN ? AND ?"
            " ORDER BY took_s"
        )
        rows = self.connection.execute(query, (_NEWEST_REQUESTS, now - RATE_WINDOW_S, now))
        return [took_s for (took_s,) in rows]

    def _accepted_rate(self, now: float) -> float:
        """Counts all ids above the newest one accepted before: from the delivery log, or the waiting rows."""
        tables, since = self.tables, now - RATE_WINDOW_S
        query = (
            f"SELECT {tables.sequence}, baseline, (SELECT ids FROM {tables.deliveries} WHERE id = (SELECT id"
            f" FROM ({self._latest('id, put_at')}) WHERE coalesce(put_at, settled_at) < ? LIMIT 1))"
            f" FROM {tables.ledger}"
        )
        newest, baseline, ids = self.connection.execute(query, (_NEWEST_DELIVERIES, since)).fetchone()
        # What is damaged or not ours may be no list of ids, or name one that was never given.
        written = _ids(str(ids))
        last = min(max(baseline, int(written[-1]) if written else 0), newest)
        query = f"SELECT _id, {PUT_AT} FROM {tables.queue} WHERE _id >= ? ORDER BY _id LIMIT 1"
        end = newest
        while last < end:
            middle = (last + end + 1) // 2
            row_id, put_at = self.connection.execute(query, (middle,)).fetchone() or (0, None)
            if put_at is not None and put_at < since:
                last = row_id
            else:
                end = middle - 1
        return float(newest - last) / RATE_WINDOW_S

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with translated(self.path):
            self.connection.execute("BEGIN")
            try:
                yield
            finally:
                self.connection.execute("COMMIT")
