"""Looking at the queue without touching it: read-only, in short reads, whatever the daemon does."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from forwarder.errors import UnavailableError
from forwarder.records import EVENTS
from forwarder.spool.sqlite import control, schema
from forwarder.spool.sqlite.directory import DATABASE, LOG, quoted, refuse_links, size_of
from forwarder.spool.sqlite.errors import damaged, has_no_space, translated
from forwarder.spool.sqlite.opening import is_emptied
from forwarder.spool.values import Brief, DeadLetter, Figures, Group, Selection, Waiting, as_bytes

RATE_WINDOW_S = 60.0
MOST_GROUPS = 10_000
_NEWEST_DELIVERIES = 20_000
_CHUNK_IDS = 10_000
_START_BYTES = 4096
_PEEK = (
    f"SELECT _id, iif(length(data) > {EVENTS.max_bytes}, substr(data, 1, {_START_BYTES}), data), put_at,"
    f" status, length(data) FROM ({schema.ROW}) WHERE _id > ? ORDER BY _id LIMIT ?"
)


class NoQueueError(UnavailableError):
    """There is no queue at the path yet."""


class UnusedQueueError(NoQueueError):
    """There is one of plain persist-queue, not adopted yet, so that its figures can't be told."""


class View:
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
            self._connection = self._opened(timeout_s)
            try:
                try:
                    self._verify()
                except sqlite3.OperationalError:
                    # On a full disk the log's index can't be made, nor is it needed where there is no log.
                    if size_of(path, LOG) or not has_no_space(path):
                        raise
                    self._connection.close()
                    self.is_frozen = True
                    self._connection = self._opened(timeout_s, "&immutable=1")
                    self._verify()
            except BaseException as error:
                self._connection.close()
                if getattr(error, "sqlite_errorname", "") == "SQLITE_READONLY_ROLLBACK":
                    what = f"the making of the queue in {path} was cut short"
                    raise NoQueueError(what, "The next event, or `forwarder run`, completes it") from error
                raise

    def _opened(self, timeout_s: float, how: str = "") -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quoted(self._file)}?mode=ro{how}", uri=True, isolation_level=None, timeout=timeout_s
        )

    def _verify(self) -> None:
        if not schema.is_ours(self._connection):
            schema.refuse_strangers(self._connection, self._file)
            raise UnusedQueueError(
                f"the queue in {self.path} has not been used by the forwarder yet",
                "`forwarder run` or `forwarder enqueue` will adopt it as it is",
            )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def figures(self) -> Figures:
        """The durable figures, read in one instant."""
        with self._reading():
            row = self._connection.execute(
                f"SELECT {schema.SEQUENCE} - baseline, delivered, dead_lettered, deleted, retried, discarded,"
                " short, last_delivery_at, created_at,"
                f" (SELECT {schema.PUT_AT} FROM {schema.TABLE} ORDER BY _id LIMIT 1) FROM ledger"
            ).fetchone()
            rate = self._rate(time.time())
        if row is None:
            raise damaged(self.path, "it has lost its books")
        (
            accepted,
            delivered,
            dead_lettered,
            deleted,
            retried,
            discarded,
            short,
            last,
            created,
            oldest,
        ) = row
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
            db_bytes=_size(self._file),
            wal_bytes=_size(self._file + "-wal"),
            disk_free_bytes=disk.f_bavail * disk.f_frsize,
            created_at=created,
        )

    def peek(self, count: int, after_id: int = 0) -> list[Waiting]:
        """The next *count* rows in the order of delivery, behind *after_id*; of what is too large for an
        event the first bytes."""
        return [
            Waiting(row_id, as_bytes(start), at or 0.0, status, len(as_bytes(None)) if size is None else size)
            for row_id, start, at, status, size in self._rows(_PEEK, (after_id, count))
        ]

    def count_dead_letters(self, where: Selection) -> int:
        """How many dead letters fit."""
        condition, values = where.condition()
        query = f"SELECT count(*) FROM dead_letters WHERE id BETWEEN ? AND ? AND {condition}"
        return sum(self._rows(query, (*chunk, *values))[0][0] for chunk in self._chunks(where))

    def newest_dead_letter(self) -> int:
        """The id of the newest dead letter that is there; 0: there is none."""
        return int(self._rows("SELECT coalesce(max(id), 0) FROM dead_letters")[0][0])

    def dead_letters(
        self, where: Selection, after_id: int = 0, limit: int = 1000, with_data: bool = True
    ) -> list[DeadLetter]:
        """The dead letters that fit, oldest first, behind *after_id*; without data, that is left empty."""
        data = "CAST(data AS BLOB)" if with_data else "x''"
        condition, values = where.condition()
        query = (
            f"SELECT id, event_id, {data}, event, insert_id, reason, field, http_status,"
            " accepted_at, dead_at FROM dead_letters"
            f" WHERE id BETWEEN ? AND ? AND {condition} ORDER BY id LIMIT ?"
        )
        found: list[DeadLetter] = []
        for chunk in self._chunks(where, after_id):
            rows = self._rows(query, (*chunk, *values, limit - len(found)))
            found += [DeadLetter(row[0], row[1], as_bytes(row[2]), *row[3:]) for row in rows]
            if len(found) == limit:
                break
        return found

    def latest_dead_letters(self, limit: int, digits: str = "") -> list[Brief]:
        """What the newest *limit* dead letters are, newest first, of those whose ids begin with *digits*."""
        newest = self.newest_dead_letter()
        if not digits:
            return self._briefs(0, newest, limit)
        found: list[Brief] = []
        if digits.isascii() and digits.isdecimal() and digits[0] != "0":
            # Those with one more digit are a range, and larger; each is one look into the table.
            for more in range(len(str(newest)) - len(digits), -1, -1):
                first = int(digits) * 10**more
                found += self._briefs(first, first + 10**more - 1, limit - len(found))
        return found

    def _briefs(self, first: int, last: int, limit: int) -> list[Brief]:
        query = "SELECT id, event, reason FROM dead_letters WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT ?"
        return [Brief(*row) for row in self._rows(query, (first, last, limit))]

    def summary(self, where: Selection) -> list[Group]:
        """The dead letters that fit, grouped by what they died of; the largest group first.

        Of more than `MOST_GROUPS` the smallest are summed up in one at the end, as they are met: what was
        put there is not counted in a group that grows later.
        """
        condition, values = where.condition()
        groups: dict[tuple[object, ...], Group] = {}
        others: Group | None = None
        for chunk in self._chunks(where):
            rows = self._rows(
                "SELECT reason, field, http_status, event, count(*), min(dead_at), max(dead_at), min(id)"
                f" FROM dead_letters WHERE id BETWEEN ? AND ? AND {condition}"
                " GROUP BY reason, field, http_status, event",
                (*chunk, *values),
            )
            for row in rows:
                new, old = Group(*row), groups.get(row[:4])
                groups[row[:4]] = new if old is None else old.merged(new)
            for key in _by_size(groups)[MOST_GROUPS:]:
                small = groups.pop(key)
                others = others.merged(small) if others else small.among_others()
        return [groups[key] for key in _by_size(groups)] + ([others] if others else [])

    def used_bytes(self) -> int:
        """The bytes of the database that hold something; the rest of the file is free for new events."""
        with translated(self.path):
            return schema.used_bytes(self._connection)

    @property
    def connection(self) -> sqlite3.Connection:
        """The read-only connection, for the other readers of this package."""
        return self._connection

    def _chunks(self, where: Selection, after_id: int = 0) -> Iterator[tuple[int, int]]:
        """The ids to look through, from and to: in short reads, as a long one would keep the log from being
        checkpointed."""
        last = self.newest_dead_letter()
        if where.ids is not None:
            yield after_id + 1, last  # only these are looked up, however many there are between them
            return
        while after_id < last:
            # The first that is there: between two ids there may be any number that is not.
            first = self._rows("SELECT min(id) FROM dead_letters WHERE id > ?", (after_id,))[0][0]
            if first is None:
                return
            after_id = min(first + _CHUNK_IDS - 1, last)
            yield first, after_id

    def _rate(self, now: float) -> float:
        (count,) = self._connection.execute(
            "SELECT coalesce(sum(delivered), 0) FROM (SELECT delivered, settled_at FROM deliveries"
            " ORDER BY id DESC LIMIT ?) WHERE settled_at BETWEEN ? AND ?",
            (_NEWEST_DELIVERIES, now - RATE_WINDOW_S, now),
        ).fetchone()
        return float(count) / RATE_WINDOW_S

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with translated(self.path):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with translated(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")


def _by_size(groups: dict[tuple[object, ...], Group]) -> list[tuple[object, ...]]:
    return sorted(groups, key=lambda key: (-groups[key].count, groups[key].example_id))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
