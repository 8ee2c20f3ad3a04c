"""Emptying SQLite's log, and when that is worth keeping writers waiting."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from forwarder.spool.errors import SpoolFullError
from forwarder.spool.sqlite.database import PATIENCE_S, Database
from forwarder.spool.sqlite.directory import LOG, size_of
from forwarder.spool.sqlite.reserve import Reserve

T = TypeVar("T")
Transaction = Callable[[], AbstractContextManager[sqlite3.Connection]]

LONG_BYTES = 32 * 1024 * 1024
RETRY_S = 0.25
RETRY_MOST_S = 10.0


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
    database.empty_log()
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
        is_empty = database.empty_log(PATIENCE_S)
        self._due_at = now + (RETRY_S if is_empty else self._wait_s)
        self._wait_s = RETRY_S if is_empty else min(self._wait_s * 2, RETRY_MOST_S)
        return is_empty
