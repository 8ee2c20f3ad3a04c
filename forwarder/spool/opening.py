"""Opening the database's file, and making it a queue's when it is none yet."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from forwarder.spool import pause, schema
from forwarder.spool.connection import Connection
from forwarder.spool.directory import DATABASE, LOG, refuse_links, size_of, sync_way
from forwarder.spool.reserve import RESERVE, Reserve
from forwarder.spool.sqlite_errors import used_up

JOURNAL_SIZE_LIMIT = 8 * 1024 * 1024


def opened(
    path: str, timeout_s: float, lock: threading.RLock, turn: Callable[[], AbstractContextManager[None]]
) -> Connection:
    """The database in the directory *path*, where a file for it is: a queue, with our settings.

    Args:
        timeout_s: How long it is to wait for locks.
        lock: Whoever uses it holds this one, as the caller does.
        turn: The turnstile, to be passed where it is not a queue yet.

    Raises:
        ForwarderError, sqlite3.Error, OSError: it is no queue, and can't or must not be made one.
    """
    file = os.path.join(path, DATABASE)
    refuse_links(file)
    made: Any = partial(Connection, path=path, lock=lock)
    connection: Connection = sqlite3.connect(
        file, timeout=timeout_s, isolation_level=None, check_same_thread=False, factory=made
    )
    try:
        if not schema.is_ours(connection):
            schema.refuse_strangers(connection, file)
            with turn():
                _prepare(connection, path)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT}")
    except BaseException:
        connection.close()
        raise
    return connection


def is_emptied(path: str) -> bool:
    """Whether there is nothing where a database was: the reserve is laid when there is one."""
    is_used = size_of(path, LOG) or os.path.exists(os.path.join(path, RESERVE))
    return not size_of(path, DATABASE) and bool(is_used)


def undo(connection: Connection, error: BaseException, path: str) -> None:
    """Roll a transaction back that *error* has ended.

    Raises:
        DamagedError: what SQLite took for a full disk is a table without an id for another row.
    """
    connection.undo()
    if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" and schema.used_up(connection):
        raise used_up(path) from error


def _prepare(connection: Connection, path: str) -> None:
    # Only takes effect before the first table; an adopted database goes without.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    sync_way(path)
    connection.execute("BEGIN IMMEDIATE")
    try:
        schema.prepare(connection, os.path.join(path, DATABASE))
        if pause.is_kept(path):
            connection.execute("UPDATE control SET paused = 1")
        connection.execute("COMMIT")
    except BaseException as error:
        undo(connection, error, path)
        raise
    pause.forget(path)
    # Now, not when a daemon starts: by then the disk may be full.
    Reserve(path).fill()
