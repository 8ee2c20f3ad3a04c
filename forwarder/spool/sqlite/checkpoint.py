"""Emptying SQLite's log, and when that is worth keeping writers waiting."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import TypeVar

from forwarder.errors import TryAgainError
from forwarder.spool.errors import SpoolFullError
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.directory import LOG, size_of
from forwarder.spool.sqlite.errors import translated
from forwarder.spool.sqlite.reserve import Reserve

T = TypeVar("T")
Transaction = Callable[[], AbstractContextManager[sqlite3.Connection]]

LONG_BYTES = 32 * 1024 * 1024
# Longer than our own readers need; a third of the longest that one of 64 producers may wait.
PATIENCE_S = 0.25
RETRY_S = 0.25
RETRY_MOST_S = 10.0


def empty(database: Database, patience_s: float = 0.0) -> bool:
    """Empty the log, for which all writers have to wait as long as we wait for readers: *patience_s* at most.

    Returns:
        False: somebody was in the way.

    Raises:
        StorageError: as `Database.transaction`.
    """
    try:
        # Not beside a writer: before 3.51.3 SQLite could lose what one wrote to a log that was reset then.
        with database.alone(), translated(database.path), database.turn(PATIENCE_S):
            connection = database.connect()
            connection.execute(f"PRAGMA busy_timeout = {int(patience_s * 1000)}")
            try:
                is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {int(database.timeout * 1000)}")
    except TryAgainError:
        return False
    return not is_busy


def freeing(database: Database, transaction: Transaction, step: Callable[[sqlite3.Connection], T]) -> T:
    """Take a step towards free space that needs a little of it first: all of it or nothing.

    On a full disk the reserve is given up for it.

    Raises: as `Database.transaction`.
    """
    try:
        with transaction() as connection:
            return step(connection)
    except SpoolFullError:
        Reserve(database.path).release()
    # The log, too, has space to give: what it holds goes to its place in the database.
    empty(database)
    with transaction() as connection:
        return step(connection)


class LongLog:
    """Shortens the log of the queue in *path* when it has grown long.

    SQLite begins it anew when nobody reads in it. Readers that are short, but of whom always one is there,
    leave no such moment: under load it grew by 30 MB a second for as long as they were there. Then writers
    have to wait for them once. Instants are monotonic.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._due_at = float("-inf")
        self._wait_s = RETRY_S

    def is_due(self, now: float) -> bool:
        """Whether it is to be shortened now."""
        return now >= self._due_at and size_of(self._path, LOG) > LONG_BYTES

    def shorten(self, database: Database, now: float) -> bool:
        """Try it; while some reader is too slow for that, ever more seldom. Returns whether it is empty."""
        is_empty = False
        with suppress(TryAgainError):
            is_empty = empty(database, PATIENCE_S)
        self._due_at = now + (RETRY_S if is_empty else self._wait_s)
        self._wait_s = RETRY_S if is_empty else min(self._wait_s * 2, RETRY_MOST_S)
        return is_empty
