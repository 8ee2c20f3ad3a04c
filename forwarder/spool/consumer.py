"""The daemon's side of the queue: claim what waits in sets, settle it in sets.

Claiming writes nothing: that a row is in flight is only a fact in the daemon's memory. Settling is one
transaction for everything that must agree: rows out, dead letters in, totals, delivery log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from forwarder.errors import TryAgainError
from forwarder.spool import dead_letters, settling
from forwarder.spool.ackqueue import AckQueue
from forwarder.spool.clearing import Clearing
from forwarder.spool.foreign import Origin
from forwarder.spool.reserve import Reserve
from forwarder.spool.schema import ROW, SEQUENCE, TABLE
from forwarder.spool.settlement import Claim, Control, Dead, Settlement
from forwarder.spool.sqlite_errors import QueueReplacedError, SpoolFullError, translated

MISSING = (
    f"SELECT {SEQUENCE} - baseline - delivered - dead_lettered - deleted"
    f" FROM ledger WHERE NOT EXISTS (SELECT 1 FROM {TABLE})"
)
VACUUM_PAGES = 2000

_T = TypeVar("_T")


class Consumer:
    """Reads and settles the queue in a directory. There may be one at a time; its owner sees to that.

    Not for several threads.
    """

    def __init__(self, path: str, lock_timeout_s: float = 10.0) -> None:
        """Open the queue, which is made if it is not there.

        Raises:
            NotPermittedError: what is delivered from it could not be settled in it.
            ConfigError, TryAgainError, StorageError: as `AckQueue`.
        """
        self._path = path
        self._reserve = Reserve(path)
        try:
            self._queue = AckQueue(path, timeout=lock_timeout_s)
        except SpoolFullError:
            self._reserve.release()
            self._queue = AckQueue(path, timeout=lock_timeout_s)
        self._file = self._queue.file
        self._known: tuple[sqlite3.Connection, str] | None = None
        self._settled: set[int] = set()
        try:
            self._origin = Origin(*self._read("SELECT queue_id, created_at FROM ledger"))
            self._clearing = Clearing(self._origin, self._free)
            # A lock or a full disk says nothing about permissions, and passes.
            with suppress(TryAgainError), self._transaction() as connection:
                # Writes nothing; but only a statement tells: where it may not write, BEGIN IMMEDIATE reads.
                connection.execute("DELETE FROM control WHERE 0")
        except BaseException:
            self._queue.close()
            raise
        self._reserve.fill()

    def _read(self, statement: str) -> tuple[Any, ...]:
        with translated(self._path):
            row: tuple[Any, ...] = self._connect().execute(statement).fetchone()
            return row

    def _connect(self) -> sqlite3.Connection:
        connection = self._queue.connect()
        # The ids that were claimed mean other events in another file; settled there, those would be lost.
        if self._queue.file != self._file or self._queue.is_replaced() or not self._is_known(connection):
            # For good: once the old file is closed, its inode number may come back as another file's.
            self._file = None
            raise QueueReplacedError(
                f"the database in {self._path} has been replaced by another",
                "Restart the daemon; what was not settled is still in the old file",
            )
        return connection

    def _is_known(self, connection: sqlite3.Connection) -> bool:
        """Whether it is the same queue, were its file closed, changed and opened again meanwhile."""
        if self._known is None or connection is not self._known[0]:
            (queue_id,) = connection.execute("SELECT queue_id FROM ledger").fetchone()
            if self._known is not None and queue_id != self._known[1]:
                return False
            self._known = connection, queue_id
        return True

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._queue.transaction():
            yield self._connect()

    def close(self) -> None:
        """Close the files. The reserve stays for the next time."""
        self._queue.close()

    def wait_for_locks(self, timeout_s: float) -> None:
        """Wait for other writers no longer than this from now on, in seconds."""
        self._queue.timeout = timeout_s
        self._read(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")

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

        One row alone may be larger. Rows that are no events go to the dead letters at once, rows a plain
        consumer has acked are swept: they count as read, but are not in the claim. Where there is no room
        for that they stay in the queue, and are taken out by a later claim, `tidy` or consumer.

        Returns:
            the claim; its ``last_id`` is what to go on from (*after_id*: nothing is left). Also without
            an event in it there may be more behind.
        """
        self._clear_kept()
        claim = Claim(last_id=after_id)
        dead: list[Dead] = []
        swept: list[int] = []
        read_bytes, last_id = 0, after_id
        read = self._origin.read
        query = f"{ROW} WHERE _id > ? ORDER BY _id LIMIT ?"
        with (
            translated(self._path),
            closing(self._connect().execute(query, (after_id, max_events))) as found,
        ):
            for row_id, data, put_at, status in found:
                final = read(row_id, data, put_at, status)
                size_bytes = len(final if isinstance(final, bytes) else data or b"") + 1
                if read_bytes + size_bytes > max_bytes and last_id > after_id:
                    break
                read_bytes += size_bytes
                last_id = row_id
                if isinstance(final, bytes):
                    claim.ids.append(row_id)
                    claim.events.append(final)
                    claim.size_bytes += size_bytes
                elif final is None:
                    swept.append(row_id)
                else:
                    dead.append(final)
        claim.last_id = last_id
        claim.kept = self._clearing.clear(dead, swept)
        self._clearing.report(claim)
        return claim

    def _clear_kept(self) -> None:
        with translated(self._path):
            self._clearing.clear_kept(self._connect())

    def settle(self, settlement: Settlement) -> None:
        """Take rows out of the queue, for the reasons given; durable on return.

        All or nothing, but on a full disk: there in parts, as far as there is room for them.

        Raises:
            TryAgainError, StorageError: something is left; call again with the same, and each event
                counts once.
        """
        rest = settling.without(settlement, self._settled)
        try:
            if rest.ids:
                self._free(partial(settling.settle, settlement=rest))
        except SpoolFullError:
            parts = settling.parts(rest)
            if len(parts) == 1:
                raise
            for part in parts:
                self._free(partial(settling.settle, settlement=part))
                self._settled.update(part.ids)
        if self._settled:
            self._settled.difference_update(settlement.ids)

    def _free(self, step: Callable[[sqlite3.Connection], _T]) -> _T:
        """Take a step towards free space that needs a little of it first: all of it or nothing."""
        try:
            with self._transaction() as connection:
                return step(connection)
        except SpoolFullError:
            self._reserve.release()
        # The log, too, has space to give: what it holds goes to its place in the database.
        self._checkpoint()
        with self._transaction() as connection:
            return step(connection)

    def discard_dead_letters(self, before: float) -> int:
        """Delete dead letters older than *before* (seconds since the epoch). Returns how many.

        In steps, between which others can write.
        """
        count = last_id = 0
        while True:
            with translated(self._path):
                step = dead_letters.expired(self._connect(), before, last_id)
            if step.ids:
                count += self._free(partial(dead_letters.discard, ids=step.ids))
            if step.last_id == last_id:
                return count
            last_id = step.last_id

    def tidy(self) -> bool:
        """Give a little disk back, in a step short enough to hinder nobody. True: there is more to do.

        Also takes out what claims had no room to, and counts as deleted what others have deleted from a
        queue that is empty now. To be called while nothing is in flight.
        """
        self._clear_kept()
        if self._read(f"SELECT coalesce(({MISSING}), 0)")[0] > 0:
            self._free(settling.account_missing)
        (free,) = self._read("PRAGMA freelist_count")
        if free > VACUUM_PAGES and self._read("PRAGMA auto_vacuum")[0] == 2:
            with self._transaction() as connection:
                for _ in range(VACUUM_PAGES):
                    # It gives a page back at each sqlite3_step(), of which Python's execute() does one.
                    connection.execute("PRAGMA incremental_vacuum(1)")
            return True
        is_done = self._checkpoint()
        self._reserve.fill()
        return self._clearing.has_kept or not is_done

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
