"""The daemon's side of the queue: claim what waits in sets, settle it in sets.

Claiming writes nothing: that a row is in flight is only a fact in the daemon's memory. Settling is one
transaction for everything that must agree: rows out, dead letters in, totals, delivery log.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import Any, TypeVar

from forwarder.errors import EventError, TryAgainError
from forwarder.event import complete_foreign, name_of
from forwarder.spool.ackqueue import AckQueue
from forwarder.spool.reserve import Reserve
from forwarder.spool.schema import KEPT_DELIVERIES, PUT_AT, SEQUENCE, TABLE
from forwarder.spool.settlement import Claim, Control, Dead, Settlement
from forwarder.spool.sqlite_errors import QueueReplacedError, SpoolFullError, translated
from forwarder.spool.status import ACKED, READY

# Text need not be UTF-8, and Python would fail on it.
CLAIM = f"SELECT _id, CAST(data AS BLOB), {PUT_AT}, status FROM {TABLE} WHERE _id > ? ORDER BY _id LIMIT ?"
VACUUM_PAGES = 2000
PIECE_BYTES = 256 * 1024

_T = TypeVar("_T")


class Consumer:
    """Reads and settles the queue in a directory. There may be one at a time; its owner sees to that.

    Not for several threads.
    """

    def __init__(self, path: str, lock_timeout_s: float = 10.0) -> None:
        self._path = path
        self._reserve = Reserve(path)
        try:
            self._queue = AckQueue(path, timeout=lock_timeout_s)
        except SpoolFullError:
            self._reserve.release()
            self._queue = AckQueue(path, timeout=lock_timeout_s)
        self._file = self._queue.file
        self._reserve.fill()
        self._queue_id, self._created_at = self._read("SELECT queue_id, created_at FROM ledger")

    def _read(self, statement: str) -> tuple[Any, ...]:
        with translated(self._path):
            row: tuple[Any, ...] = self._connect().execute(statement).fetchone()
            return row

    def _connect(self) -> sqlite3.Connection:
        connection = self._queue.connect()
        # The ids that were claimed mean other events in another file; settled there, those would be lost.
        if self._queue.file != self._file or self._queue.is_replaced():
            # For good: once the old file is closed, its inode number may come back as another file's.
            self._file = None
            raise QueueReplacedError(
                f"the database in {self._path} has been replaced by another",
                "Restart the daemon; what was not settled is still in the old file",
            )
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._queue.transaction():
            yield self._connect()

    def close(self) -> None:
        """Close the files. The reserve stays for the next time."""
        self._queue.close()

    def version(self) -> int:
        """A number that changes when another process has written."""
        return int(self._read("PRAGMA data_version")[0])

    def last_id(self) -> int:
        """The id of the newest event ever accepted."""
        return int(self._read(f"SELECT {SEQUENCE}")[0])

    def control(self) -> Control:
        """What a person has asked for, as of now."""
        paused, flush_requests = self._read("SELECT paused, flush_requests FROM control")
        return Control(bool(paused), flush_requests)

    def claim(self, after_id: int, max_events: int, max_bytes: int) -> Claim:
        """Read the next rows behind *after_id*: at most *max_events*, and *max_bytes* with line ends.

        One event alone may be larger. Rows that are no events go to the dead letters at once, rows a
        plain consumer has acked are swept: neither is in the claim.

        Returns:
            the claim; its ``last_id`` is what to go on from (*after_id*: nothing is left).
        """
        claim = Claim(last_id=after_id)
        dead: list[Dead] = []
        swept: list[int] = []
        with (
            translated(self._path),
            closing(self._connect().execute(CLAIM, (after_id, max_events))) as found,
        ):
            for row_id, data, put_at, status in found:
                final: bytes | Dead | None = data
                # A plain consumer's nack says "ready" of rows that nobody has checked.
                if status != READY or data is None or not _is_final(data):
                    final = None if status == ACKED else self._take_up(row_id, data, put_at)
                if isinstance(final, bytes):
                    if claim.ids and claim.size_bytes + len(final) + 1 > max_bytes:
                        break
                    claim.ids.append(row_id)
                    claim.events.append(final)
                    claim.size_bytes += len(final) + 1
                elif final is None:
                    swept.append(row_id)
                else:
                    dead.append(final)
                claim.last_id = row_id
        for letters in _pieces(dead):
            self.settle(Settlement([letter.event_id for letter in letters], letters))
        if swept:
            self._free(lambda: self._sweep(swept))
        return claim

    def settle(self, settlement: Settlement) -> None:
        """Take rows out of the queue, for the reasons given; durable on return, all or nothing."""
        self._free(lambda: self._settle(settlement))

    def _free(self, step: Callable[[], _T]) -> _T:
        """Take a step towards free space that needs a little of it first."""
        try:
            return step()
        except SpoolFullError:
            self._reserve.release()
        # The log, too, has space to give: what it holds goes to its place in the database.
        self._checkpoint()
        return step()

    def _take_up(self, row_id: int, data: bytes | None, put_at: float | None) -> bytes | Dead:
        """A stranger's row, as final bytes if it is an event."""
        put_at = self._created_at if put_at is None else put_at
        try:
            return complete_foreign(data, put_at, self._queue_id, row_id)
        except EventError as error:
            return Dead(row_id, data, str(error))

    def _settle(self, settlement: Settlement) -> None:
        now = time.time()
        dead, ids = settlement.dead, settlement.ids
        delivered = len(ids) - len(dead)
        with self._transaction() as connection:
            accepted_at = [_put_at(connection, letter.event_id, now) for letter in dead]
            # Deleted first: on a full disk a dead letter has to find its place in what the row leaves.
            _delete(connection, ids)
            for letter, at in zip(dead, accepted_at, strict=True):
                _bury(connection, letter, at, now)
            connection.execute(
                "UPDATE ledger SET delivered = delivered + ?, dead_lettered = dead_lettered + ?,"
                " short = short + ?, last_delivery_at = iif(?, ?, last_delivery_at)",
                (delivered, len(dead), settlement.short, delivered > 0, now),
            )
            entry = connection.execute(
                "INSERT INTO deliveries (first_id, last_id, delivered, dead, short, size_bytes, http_status,"
                " tries, settled_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    ids[0],
                    ids[-1],
                    delivered,
                    len(dead),
                    settlement.short,
                    settlement.size_bytes,
                    settlement.http_status,
                    settlement.tries,
                    now,
                ),
            ).lastrowid
            assert entry is not None
            connection.execute("DELETE FROM deliveries WHERE id <= ?", (entry - KEPT_DELIVERIES,))

    def _sweep(self, ids: Sequence[int]) -> None:
        with self._transaction() as connection:
            _delete(connection, ids)
            connection.execute("UPDATE ledger SET deleted = deleted + ?", (len(ids),))

    def discard_dead_letters(self, before: float) -> int:
        """Delete dead letters older than *before* (seconds since the epoch). Returns how many."""
        with self._transaction() as connection:
            count = connection.execute("DELETE FROM dead_letters WHERE dead_at < ?", (before,)).rowcount
            connection.execute("UPDATE ledger SET discarded = discarded + ?", (count,))
        return count

    def tidy(self) -> bool:
        """Give a little disk back, in a step short enough to hinder nobody. True: there is more to do."""
        (free,) = self._read("PRAGMA freelist_count")
        if free > VACUUM_PAGES and self._read("PRAGMA auto_vacuum")[0] == 2:
            with self._transaction() as connection:
                for _ in range(VACUUM_PAGES):
                    # It gives a page back at each sqlite3_step(), of which Python's execute() does one.
                    connection.execute("PRAGMA incremental_vacuum(1)")
            return True
        is_done = self._checkpoint()
        self._reserve.fill()
        return not is_done

    def _checkpoint(self) -> bool:
        """Empty the log; False: a reader was in the way."""
        # Without waiting for readers: all writers would have to wait for them with us.
        self._read("PRAGMA busy_timeout = 0")
        try:
            is_busy, _, _ = self._read("PRAGMA wal_checkpoint(TRUNCATE)")
        except TryAgainError:
            return False
        finally:
            self._read(f"PRAGMA busy_timeout = {int(self._queue.timeout * 1000)}")
        return not is_busy


def _is_final(data: bytes) -> bool:
    return b'"$insert_id"' in data and b'"time"' in data and b"\n" not in data and data[:1] == b"{"


def _delete(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Delete rows by their ranges: what stands in a gap is somebody else's."""
    starts = [row_id for before, row_id in pairwise((-1, *ids)) if row_id != before + 1]
    ends = [row_id for row_id, after in pairwise((*ids, -1)) if after != row_id + 1]
    connection.executemany(
        f"DELETE FROM {TABLE} WHERE _id BETWEEN ? AND ?", list(zip(starts, ends, strict=True))
    )


def _pieces(dead: Sequence[Dead]) -> Iterator[Sequence[Dead]]:
    """Cut so that the reserve has room for each piece, which frees what the next one needs."""
    piece: list[Dead] = []
    size_bytes = 0
    for letter in dead:
        size_bytes += len(letter.data or b"")
        piece.append(letter)
        if size_bytes >= PIECE_BYTES:
            yield piece
            piece, size_bytes = [], 0
    if piece:
        yield piece


def _put_at(connection: sqlite3.Connection, row_id: int, otherwise: float) -> float:
    row = connection.execute(f"SELECT {PUT_AT} FROM {TABLE} WHERE _id = ?", (row_id,)).fetchone()
    return otherwise if row is None or row[0] is None else float(row[0])


def _bury(connection: sqlite3.Connection, letter: Dead, accepted_at: float, now: float) -> None:
    name, insert_id = name_of(letter.data)
    connection.execute(
        "INSERT INTO dead_letters (event_id, data, event, insert_id, reason, field, http_status, accepted_at,"
        " dead_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            letter.event_id,
            letter.data,
            name,
            insert_id,
            letter.reason,
            letter.field,
            letter.http_status,
            accepted_at,
            now,
        ),
    )
