"""How a database becomes a queue, and opening it. `tables` has the tables of each kind; beside them:

- ``salvages``: how much of each damaged database has been recovered.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from forwarder.errors import ConfigError
from forwarder.records import EVENTS
from forwarder.spool.sqlite import errors, room, tables
from forwarder.spool.sqlite.directory import DATABASE, refuse_links, sync_way

APPLICATION_ID = 0x4D_50_46_51  # "MPFQ"
# Version 2 had only the tables of events, none before 4 a history and dead_ids, none before 5 bookmarks.
VERSION, OLDEST = 5, 2
JOURNAL_SIZE_LIMIT = 8 * 1024 * 1024

# No queue reaches this id by itself: 2**53 events are 9,500 years of 30,000 a second, and the largest integer
# that every reader of JSON preserves. SQLite assigns no id above 2**63 - 1, and reports a full disk.
MOST_ID = 1 << 53


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the tables; 0: the database is not a queue yet. Below `VERSION` it must be prepared.

    Raises:
        ConfigError: a newer forwarder made it.
    """
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return 0
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if not OLDEST <= version <= VERSION:
        raise ConfigError(
            f"the queue's database has version {version}; this forwarder supports {OLDEST} to {VERSION}",
            "Nothing was changed; use the forwarder that made it",
        )
    return version


def refuse_others(connection: sqlite3.Connection, path: str) -> None:
    """Make sure, by reading only, that the database is empty or a queue of persist-queue.

    Raises:
        ConfigError: another program made it.
    """
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if not names:
        return
    events = tables.of(EVENTS)
    if events.ledger in names and events.queue in names:
        raise errors.damaged(os.path.dirname(path), "its application id is missing")
    known = {one.is_external_queue(connection) for one in tables.each()} - {None}
    if known != {True}:
        found = ", ".join(sorted(names)[:5])
        raise ConfigError(
            f"{path} was made by another program: it has the tables {found} and no event queue",
            "Nothing was changed; use a directory only for the queue",
        )


def _make_tables(connection: sqlite3.Connection, path: str) -> None:
    """Turn an empty database into a queue, adopt one that plain persist-queue made, as it is, or update an
    older one of the forwarder's.

    Call it inside a write transaction.

    Raises:
        ConfigError: it was made by another program or a newer version.
    """
    version = version_of(connection)
    if version == VERSION:
        return
    if version:
        (queue_id,) = connection.execute(f"SELECT queue_id FROM {tables.of(EVENTS).ledger}").fetchone()
    else:
        # Loaded only for a new queue.
        import uuid

        queue_id = str(uuid.uuid4())
        refuse_others(connection, path)
        connection.execute("CREATE TABLE salvages (source TEXT PRIMARY KEY, position INTEGER NOT NULL)")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for one in tables.each():
        if one.are_made(connection):
            one.renew(connection, version)
        else:
            one.make(connection, queue_id)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def opened(
    path: str, timeout_s: float, turn: Callable[[], AbstractContextManager[None]]
) -> sqlite3.Connection:
    """Open the database in the directory *path*, whose file exists, as a queue with our settings.

    Args:
        timeout_s: How long to wait for locks.
        turn: The writer lock, held if it is not a queue yet.

    Raises:
        ForwarderError, sqlite3.Error, OSError: it is not a queue, and can't or must not become one.
    """
    file = os.path.join(path, DATABASE)
    refuse_links(file)
    connection = sqlite3.connect(file, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    try:
        version = version_of(connection)
        if not version:
            refuse_others(connection, file)
        if version < VERSION:
            with turn():
                _prepare(connection, path)
        # With a rollback journal, which a person may have set, EXTRA also syncs the directory.
        connection.execute("PRAGMA synchronous = EXTRA")
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            _log_ahead(connection, timeout_s)
        connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT}")
    except BaseException:
        connection.close()
        raise
    return connection


def _log_ahead(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Switch back to a write-ahead log. While others use the database it fails, and `check` reports it."""
    connection.execute("PRAGMA busy_timeout = 0")
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")


def undo(connection: sqlite3.Connection, error: BaseException, path: str) -> None:
    """Roll back a transaction that *error* has ended.

    Raises:
        DamagedError: SQLite reported a full disk because a table has no id left for another row.
    """
    # After some errors, such as a full disk, SQLite has already rolled back.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" and used_up(connection):
        raise errors.used_up(path) from error


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    # Only takes effect before the first table; an adopted database has no auto_vacuum.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    sync_way(path)
    connection.execute("BEGIN IMMEDIATE")
    try:
        _make_tables(connection, os.path.join(path, DATABASE))
        connection.execute("COMMIT")
    except BaseException as error:
        undo(connection, error, path)
        raise
    # Now, not when a daemon starts: the disk may be full by then.
    room.fill_reserve(path)


def used_up(connection: sqlite3.Connection) -> list[str]:
    """The tables whose ids are so large that only an external producer's row can be the cause."""
    query = "SELECT name FROM sqlite_sequence WHERE seq NOT BETWEEN 0 AND ? ORDER BY name"
    return [str(name) for (name,) in connection.execute(query, (MOST_ID,))]


def used_bytes(connection: sqlite3.Connection) -> int:
    """The bytes of the database in use; the rest of the file is free for new events."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    return int((pages - free) * size)
