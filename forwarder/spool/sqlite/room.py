"""Room on the disk: a reserve for steps that free space, and shortening a long log."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, TypeVar

from forwarder.spool.errors import SpoolFullError
from forwarder.spool.sqlite.directory import DATABASE, LOG, size_of
from forwarder.spool.sqlite.lock import open_shared

if TYPE_CHECKING:
    from forwarder.spool.sqlite.database import Database

T = TypeVar("T")
Transaction = Callable[[], AbstractContextManager[sqlite3.Connection]]

# For settling, which frees space but needs some first.
RESERVE = "reserve"
RESERVE_BYTES = 4 * 1024 * 1024
LONG_BYTES = 32 * 1024 * 1024
# Longer than our own readers need; a third of the longest wait of one of 64 producers.
PATIENCE_S = 0.25
RETRY_S = 0.25
RETRY_MOST_S = 10.0


def fill_reserve(path: str) -> None:
    """Reserve `RESERVE_BYTES` in the queue's directory, unless the disk is too full."""
    with suppress(OSError):
        fd = _opened(open_shared(os.path.join(path, RESERVE)))
        try:
            if os.fstat(fd).st_size != RESERVE_BYTES:
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError:
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)


def release_reserve(path: str) -> None:
    """Release the space."""
    with suppress(OSError):
        # Through its descriptor: a file that has replaced it meanwhile must not be emptied.
        fd = _opened(os.open(os.path.join(path, RESERVE), os.O_RDWR | os.O_NOFOLLOW))
        try:
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)


def _opened(fd: int) -> int:
    """The same descriptor, if it is a regular file that has no other name."""
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a reserve")


def is_emptied(path: str) -> bool:
    """Whether a database is missing where there was one: a reserve exists only beside a database."""
    is_used = size_of(path, LOG) or os.path.exists(os.path.join(path, RESERVE))
    return not size_of(path, DATABASE) and bool(is_used)


def freeing(database: Database, transaction: Transaction, step: Callable[[sqlite3.Connection], T]) -> T:
    """Take a step that frees space but needs some first; all or nothing.

    On a full disk the reserve is released for it.

    Raises: as `Database.transaction`.
    """
    try:
        with transaction() as connection:
            return step(connection)
    except SpoolFullError:
        release_reserve(database.path)
    # The log can free space, too: its content moves into the database.
    database.empty_log()
    with transaction() as connection:
        return step(connection)


class LongLog:
    """Shortens the log of the queue in *path* when it is long.

    SQLite starts the log over when nobody reads it. Short readers that always overlap leave no such moment:
    under load the log grew by 30 MB a second. Then writers have to wait for the readers once. Instants are
    monotonic.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._due_at = float("-inf")
        self._wait_s = RETRY_S

    def is_due(self, now: float) -> bool:
        """Whether to shorten it now."""
        return now >= self._due_at and size_of(self._path, LOG) > LONG_BYTES

    def shorten(self, database: Database, now: float) -> bool:
        """Try to shorten it; less and less often while a reader is too slow. Returns whether it is empty."""
        is_empty = database.empty_log(PATIENCE_S)
        self._due_at = now + (RETRY_S if is_empty else self._wait_s)
        self._wait_s = RETRY_S if is_empty else min(self._wait_s * 2, RETRY_MOST_S)
        return is_empty
