"""The daemon's side of the queue: claim what waits in sets, settle it in sets.

Claiming writes nothing: that a row is in flight is only a fact in the daemon's memory. Settling is one
transaction for everything that must agree: rows out, dead letters in, totals, delivery log.
"""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from forwarder.errors import ForwarderError, TryAgainError
from forwarder.spool import engine
from forwarder.spool.errors import DamagedError, QueueReplacedError, SpoolFullError
from forwarder.spool.history import Period
from forwarder.spool.sqlite import control, dead_letters, history, room, settling
from forwarder.spool.sqlite.claiming import RowReader, Rows, origin_of
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.directory import LOG
from forwarder.spool.sqlite.errors import damaged, translated, used_up
from forwarder.spool.sqlite.schema import MOST_ID
from forwarder.spool.sqlite.tables import OF_EVENTS, Tables
from forwarder.spool.values import Claim, Control, Dead, Settlement

RETRY_S = 1.0
STEP_ROWS = 1000
STEP_BYTES = 1 << 20

_T = TypeVar("_T")


class Consumer(engine.Consumer):
    """Reads and settles the records of a kind in a directory, those of *tables*.

    No longer usable once the database was replaced."""

    def __init__(self, path: str, lock_timeout_s: float = 10.0, tables: Tables = OF_EVENTS) -> None:
        """Open the queue; it is created if missing.

        Raises:
            NotPermittedError: this user could not settle what is delivered.
            ConfigError, TryAgainError, StorageError: as `Database`.
        """
        # The program may change its working directory.
        self._path = path = os.path.abspath(path)
        self._tables = tables
        # The queue, the consumer that has started last, and SQLite's number of the schema, which a restored
        # backup changes: in any other state row ids may mean other events.
        self._identify = (
            "SELECT queue_id, consumer, schema_version"
            f" FROM {tables.ledger}, {tables.control}, pragma_schema_version"
        )
        self._log = os.path.join(path, LOG)
        self._long_log = room.LongLog(path)
        try:
            self._database = Database(path, timeout=lock_timeout_s)
            self._database.connect()
        except SpoolFullError:
            room.release_reserve(path)
            self._database = Database(path, timeout=lock_timeout_s)
            # New tables make the file longer: now, before settling has filled that room with the log.
            with suppress(ForwarderError):
                self._database.empty_log()
        self._settled: set[int] = set()
        try:
            try:
                self._begin()
            except DamagedError:
                self._database.replace_damaged()
                self._begin()
        except BaseException:
            self._database.close()
            raise
        room.fill_reserve(path)

    def _begin(self) -> None:
        connection = self._database.connect()
        self._files: object = self._database.files.database, self._database.replacements
        self._examined: sqlite3.Connection | None = connection
        self._openings = 0
        self._mark = uuid.uuid4().hex
        self._identity = self._read(self._identify)
        with translated(self._path):
            origin = origin_of(connection, self._tables, self._path)
        self._reader = RowReader(origin)
        # The next claim starts behind this id; and the newest id when it was last asked for.
        self._position = self._newest = 0
        # Rows that claims left for lack of room are behind this id; and when to try again.
        self._left_after, self._retry_at = MOST_ID, 0.0
        # A lock or a full disk says nothing about permissions, and is temporary.
        with suppress(TryAgainError), self._transaction():
            pass

    def _read(self, statement: str) -> tuple[Any, ...]:
        with translated(self._path):
            row: tuple[Any, ...] | None = self._connect().execute(statement).fetchone()
        if row is None:
            raise damaged(self._path, "the totals table is empty")
        return row

    def _connect(self) -> sqlite3.Connection:
        connection = self._database.connect()
        if connection is not self._examined:
            # Closed by a fork or `reopen`, and opened again: the database may have changed meanwhile.
            self._examine(connection)
            self._examined = connection
            self._openings += 1
        now = self._database.files.database, self._database.replacements
        if now != self._files or self._database.is_replaced():
            raise self._replaced()
        return connection

    def _examine(self, connection: sqlite3.Connection) -> None:
        """Make sure that ids still mean the claimed events: otherwise settling would lose others."""
        found = connection.execute(self._identify).fetchone()
        if found is None:
            raise damaged(self._path, "the totals table is empty")
        if self._files is None or found != self._identity:
            raise self._replaced()

    def _replaced(self) -> QueueReplacedError:
        # Permanently: once the old file is closed, another file may get its inode number.
        self._files = None
        return QueueReplacedError(
            f"the database in {self._path} has changed: it was replaced or restored, or another daemon"
            " delivers from it",
            "Events that were sent but not settled are sent again",
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._database.transaction():
            connection = self._connect()
            self._examine(connection)
            queue_id, consumer, version = self._identity
            if consumer != self._mark:
                # At the start; or later, if there was no lock or room at the start.
                connection.execute(f"UPDATE {self._tables.control} SET consumer = ?", (self._mark,))
            yield connection
        self._identity = queue_id, self._mark, version

    def reopen(self) -> None:
        self._database.reopen()

    def set_aside(self) -> None:
        self._database.replace_damaged()

    def close(self) -> None:
        """Close the files. The reserve stays for the next start."""
        self._database.close()

    @property
    def queue_id(self) -> str:
        return str(self._identity[0])

    @property
    def orphaned(self) -> str:
        return self._database.orphaned

    def wait_for_locks(self, timeout_s: float) -> None:
        self._database.timeout = timeout_s
        self._read(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")

    def changed_mark(self) -> object:
        # A commit is visible only once its bytes are synced, which may be later, and a file's time is only
        # as exact as the kernel's tick.
        try:
            log = os.stat(self._log)
        except OSError:
            return None
        return log.st_ino, log.st_size, log.st_mtime_ns

    def last_id(self) -> int:
        """The id of the newest event ever accepted."""
        return int(self._read(f"SELECT {self._tables.sequence}")[0])

    def arrivals(self) -> int:
        # Counts assigned ids, also those of rows that are gone.
        self._newest = self.last_id()
        return max(self._newest - self._position, 0)

    def control(self) -> Control:
        # Before the check that the directory is still the one that was opened.
        found = control.asked(self._path)
        with translated(self._path):
            connection = self._connect()
            self._examine(connection)
            (version,) = connection.execute("PRAGMA data_version").fetchone()
        # Each connection counts from 2.
        return replace(found, version=(self._openings, version))

    def claim(self, max_events: int, max_bytes: int) -> Claim:
        claim = self.claim_behind(self._position, max_events, max_bytes)
        # The claim found nothing: the remaining ids have no rows.
        self._position = claim.last_id if claim.last_id > self._position else self._newest
        claim.left = max(self._newest - self._position, 0)
        return claim

    def sample(self, place: float) -> Claim:
        ahead = max(self._newest - self._position - 1, 0)
        return self.claim_behind(self._position + int(place * ahead), 1, 0)

    def claim_behind(self, after_id: int, max_events: int, max_bytes: int) -> Rows:
        """As `claim`, of the rows behind *after_id*.

        Rows that are not events become dead letters at once; rows that a plain consumer has acked are
        deleted. They count as read, but are not in the claim. If there is no room for that, they stay in
        the queue, and `maintain` or the next consumer removes them.

        Returns:
            the claim; the next one starts behind its ``last_id`` (*after_id*: nothing is left). There may be
            more even if it has no event.
        """
        with translated(self._path):
            found = self._reader.read(self._connect(), after_id, max_events, max_bytes)
        return self._cleared(after_id, *found)

    def _cleared(self, after_id: int, claim: Rows, dead: Sequence[Dead], acked: Sequence[int]) -> Rows:
        try:
            if acked:
                self._free(partial(settling.delete_acked, tables=self._tables, ids=acked))
            for part in settling.parts(Settlement([letter.event_id for letter in dead], dead)):
                self._settle(part)
                claim.dead += len(part.dead)
                claim.reason = claim.reason or part.dead[0].reason
        except SpoolFullError:
            # The events around them are delivered anyway, which makes room.
            self._retry_at = time.monotonic() + RETRY_S
            self._left_after = min(self._left_after, after_id)
            claim.is_clear = False
        return claim

    def read_again(self, ids: Sequence[int], size_bytes: int) -> Claim:
        if ids[-1] - ids[0] + 1 == len(ids):
            claim = self.claim_behind(ids[0] - 1, len(ids), max(size_bytes, 1))
            if [*claim.ids] == [*ids]:
                return claim
        with translated(self._path):
            found = self._reader.read_ids(self._connect(), ids)
        return self._cleared(ids[0] - 1, *found)

    def settle(self, settlement: Settlement) -> None:
        """All or nothing. Only on a full disk in parts, as far as there is room."""
        rest = settling.without(settlement, self._settled)
        try:
            if rest.ids:
                self._settle(rest)
        except SpoolFullError:
            parts = settling.parts(rest)
            if len(parts) == 1:
                raise
            for part in parts:
                self._settle(part)
                self._settled.update(part.ids)
        if self._settled:
            self._settled.difference_update(settlement.ids)

    def _settle(self, settlement: Settlement) -> None:
        self._free(partial(settling.settle, tables=self._tables, settlement=settlement))

    def mark_sent(self, ids: Sequence[int], *, sent: bool = True) -> int:
        # Only what is marked can be sent, and frees the space again.
        return self._free(partial(settling.mark_sent, tables=self._tables, ids=ids, sent=sent))

    def _free(self, step: Callable[[sqlite3.Connection], _T]) -> _T:
        return room.freeing(self._database, self._transaction, step)

    def record(self, period: Period) -> None:
        with self._transaction() as connection:
            history.add(connection, self._tables, period)

    def discard_dead_letters(self, before: float) -> int:
        """In steps, so that others can write in between."""
        count = after_id = 0
        while True:
            with translated(self._path):
                ids, last_id = dead_letters.expired(self._connect(), self._tables, before, after_id)
            if ids:
                count += self._free(partial(dead_letters.discard, tables=self._tables, ids=ids))
            if last_id == after_id:
                return count
            after_id = last_id

    def maintain(self, *, at_rest: bool) -> bool:
        """Shorten a long log; *at_rest*, also settle what is left of rows, and give disk space back.

        What concerns the whole database is done by the consumer of events.
        """
        is_first = self._tables is OF_EVENTS
        now = time.monotonic()
        if is_first and self._long_log.is_due(now):
            self._connect()
            self._long_log.shorten(self._database, now)
        if not at_rest:
            return True
        has_more = self._settle_left()
        return (is_first and self._tidy()) or has_more

    def _settle_left(self) -> bool:
        """Remove rows that claims left for lack of room. True: there is more to do.

        If the queue is empty, rows that others deleted are counted as deleted.

        Raises:
            DamagedError: a row has a too large id, which no claim reads.
        """
        if self.last_id() > MOST_ID:
            raise used_up(self._path)
        after_id = self._left_after
        if after_id < MOST_ID and time.monotonic() >= self._retry_at:
            claim = self.claim_behind(after_id, STEP_ROWS, STEP_BYTES)
            if claim.is_clear:
                self._left_after = claim.last_id if claim.last_id > after_id else MOST_ID
        if self._read(f"SELECT {settling.missing(self._tables)}")[0]:
            self._free(partial(settling.account_missing, tables=self._tables))
        return self._left_after < MOST_ID

    def _tidy(self) -> bool:
        """Give some disk space back. True: there is more to do."""
        # First, because a vacuum fills the log again, and the disk may not have room for both.
        if not self._database.empty_log():
            return True
        (free,) = self._read("PRAGMA freelist_count")
        if free > settling.VACUUM_PAGES and self._read("PRAGMA auto_vacuum")[0] == 2:
            self._free(settling.vacuum)
            return True
        room.fill_reserve(self._path)
        return False
