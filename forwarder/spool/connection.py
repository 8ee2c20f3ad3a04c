"""A connection to a queue's database, known from before its file is opened until it is closed."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from contextlib import suppress
from typing import Any

from forwarder.errors import StorageError

# Those that are open. Not dropped unclosed, as SQLite's cycles keep them open until they are collected.
_open: list[Connection] = []


class Connection(sqlite3.Connection):
    """A connection to the database *file* of the queue in the directory *path*.

    Args:
        lock: Held by whoever opens, uses or closes it.
        options: As for :func:`sqlite3.connect`.

    Raises:
        StorageError: one to this queue is open that has crossed a fork.
    """

    path: str
    lock: threading.RLock

    def __init__(self, file: str, *, path: str, lock: threading.RLock, **options: Any) -> None:
        if any(other.path == path and other.is_foreign and other.is_open for other in _open):
            raise StorageError(
                f"this process was forked without Python while the queue in {path} was open, or when it could"
                " not be closed",
                "Fork by os.fork(), or before the queue is opened",
            )
        self.path = path
        self.lock = lock
        self.is_closed = False
        self._pid = os.getpid()
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()
        # First: a signal handler may raise, or fork, when it is open and nobody has it yet.
        _open.append(self)
        super().__init__(file, **options)
        if self.is_closed:
            # By a signal handler's fork, when there was nothing to close yet.
            super().close()
            raise sqlite3.ProgrammingError("Cannot operate on a closed database.")

    @property
    def is_foreign(self) -> bool:
        """Whether it is another process's: to use or to close it would spoil that one's files."""
        return self._pid != os.getpid()

    @property
    def is_open(self) -> bool:
        """Whether it has the database's files open."""
        try:
            return self.total_changes >= 0
        except sqlite3.ProgrammingError:
            return False

    def cursor(self, factory: type[sqlite3.Cursor] = sqlite3.Cursor) -> sqlite3.Cursor:  # type: ignore[override]
        """A cursor; SQLite's module asks here for each statement."""
        if self.is_foreign:
            raise sqlite3.ProgrammingError("Cannot operate on a closed database: it has crossed a fork.")
        cursor = super().cursor(factory)
        self._cursors.add(cursor)
        return cursor

    def begin(self, left_s: float, timeout_s: float) -> None:
        """Begin a write transaction; of *timeout_s* for other writers only *left_s* may be waited."""
        has_waited = left_s < timeout_s - 0.05
        if has_waited:
            self.execute(f"PRAGMA busy_timeout = {int(left_s * 1000)}")
        try:
            self.execute("BEGIN IMMEDIATE")
        finally:
            if has_waited:
                self.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")

    def undo(self) -> None:
        """End the transaction, if there is one."""
        # Being closed has undone it, too; so has SQLite itself after some errors, a full disk among them.
        if self.is_open and self.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        """Close it, and its files with it."""
        if self.is_foreign:
            return
        self.is_closed = True
        # With a statement left, SQLite would keep the files open until that is dropped.
        for cursor in list(self._cursors):
            with suppress(sqlite3.Error):
                cursor.close()
        with suppress(sqlite3.ProgrammingError, ValueError):
            super().close()
            # Not if it was yet to be opened, as it may be when a signal handler has returned.
            _open.remove(self)


def connections(lock: threading.RLock | None = None) -> list[Connection]:
    """Those of this process that are open; with *lock*, those that belong to its holder."""
    return [one for one in list(_open) if not one.is_foreign and lock in (None, one.lock)]
