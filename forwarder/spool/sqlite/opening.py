"""Opening the database's file, and making it a queue's when it is none yet."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from forwarder.spool.sqlite import schema
from forwarder.spool.sqlite.directory import DATABASE, LOG, refuse_links, size_of, sync_way
from forwarder.spool.sqlite.errors import used_up
from forwarder.spool.sqlite.reserve import RESERVE, Reserve

JOURNAL_SIZE_LIMIT = 8 * 1024 * 1024


def opened(
    path: str, timeout_s: float, turn: Callable[[], AbstractContextManager[None]]
) -> sqlite3.Connection:
    """The database in the directory *path*, where a file for it is: a queue, with our settings.

    Args:
        timeout_s: How long it is to wait for locks.
        turn: The writer lock, to be held where it is not a queue yet.

    Raises:
        ForwarderError, sqlite3.Error, OSError: it is no queue, and can't or must not be made one.
    """
    file = os.path.join(path, DATABASE)
    refuse_links(file)
    connection = sqlite3.connect(file, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    try:
        if not schema.is_ours(connection):
            schema.refuse_strangers(connection, file)
            with turn():
                _prepare(connection, path)
        # With a rollback journal, which a person may have set, EXTRA syncs the directory, too.
        connection.execute("PRAGMA synchronous = EXTRA")
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            _log_ahead(connection, timeout_s)
        connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT}")
    except BaseException:
        connection.close()
        raise
    return connection


def _log_ahead(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Go back to a write-ahead log; while others use the database that can't be, and `check` says so."""
    connection.execute("PRAGMA busy_timeout = 0")
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")


def is_emptied(path: str) -> bool:
    """Whether there is nothing where a database was: the reserve is laid when there is one."""
    is_used = size_of(path, LOG) or os.path.exists(os.path.join(path, RESERVE))
    return not size_of(path, DATABASE) and bool(is_used)


def undo(connection: sqlite3.Connection, error: BaseException, path: str) -> None:
    """Roll a transaction back that *error* has ended.

    Raises:
        DamagedError: what SQLite took for a full disk is a table without an id for another row.
    """
    # SQLite has undone it itself after some errors, a full disk among them.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" and schema.used_up(connection):
        raise used_up(path) from error


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    # Only takes effect before the first table; an adopted database goes without.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    sync_way(path)
    connection.execute("BEGIN IMMEDIATE")
    try:
        schema.prepare(connection, os.path.join(path, DATABASE))
        connection.execute("COMMIT")
    except BaseException as error:
        undo(connection, error, path)
        raise
    # Now, not when a daemon starts: by then the disk may be full.
    Reserve(path).fill()
