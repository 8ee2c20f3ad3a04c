"""The tables beside persist-queue's own, how a database becomes a queue, and opening it.

All tables are in one database, so that one transaction settles what must agree:

- ``ack_queue_default``: persist-queue's table, one row per waiting event (`persistqueue.SQLiteAckQueue`);
- ``ledger``: one row, the durable totals;
- ``control``: one row, the mark of the newest consumer;
- ``held``: events that a person holds back, each as the row it was;
- ``dead_letters``: refused events, each with its reason; the data is last, so that SQLite reads the other
  columns without it;
- ``deliveries``: one row per settled batch, with its exact ids (``1-2000,2003``) and its request's duration;
  the newest `KEPT_ENTRIES`;
- ``retries``: the event that a retried dead letter has become; the newest `KEPT_ENTRIES`;
- ``salvages``: how much of each damaged database has been recovered;
- ``refusals``: how many events of producers were refused, by reason.
"""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from forwarder.errors import ConfigError
from forwarder.spool.sqlite import errors, room
from forwarder.spool.sqlite.directory import DATABASE, refuse_links, sync_way

APPLICATION_ID = 0x4D_50_46_51  # "MPFQ"
VERSION = 2
JOURNAL_SIZE_LIMIT = 8 * 1024 * 1024
KEPT_ENTRIES = 100_000

TABLE = "ack_queue_default"
INSERT = f"INSERT INTO {TABLE} (data, timestamp, status) VALUES (?, ?, ?)"
# Rows cut from one piece of bytes, ?1. For each row, ?2 has its place, counted from 1, and its size. In one
# statement for all, a row costs half as much as in its own, and the interpreter is free meanwhile.
SIZE_BITS = 20
INSERT_SET = (
    f"INSERT INTO {TABLE} (data, timestamp, status)"
    f" SELECT substr(?1, value >> {SIZE_BITS}, value & {(1 << SIZE_BITS) - 1}), ?3, ?4 FROM json_each(?2)"
)
# When a row was added, in seconds since the epoch; NULL if an external producer wrote something else (10**11
# is the year 5138).
PUT_AT = "iif(timestamp BETWEEN 0 AND 1e11, timestamp, NULL)"
# Text may not be UTF-8; Python would fail on it.
_ROW = (
    f"SELECT _id, CAST(data AS BLOB) AS data, {PUT_AT} AS put_at,"
    " iif(typeof(status) = 'integer', status, NULL) AS status FROM "
)
HELD_TABLE = "held"
ROW, HELD_ROW = _ROW + TABLE, _ROW + HELD_TABLE
# After an id, up to another, and at most so many.
ROWS = f"{ROW} WHERE _id > ? AND _id <= ? ORDER BY _id LIMIT ?"
# The statuses of a row, as persist-queue numbers them (`persistqueue.AckStatus`); beside them `values.HELD`.
INITED = 0  # put by plain persist-queue: not checked yet
READY = 1  # put by us: checked and complete
UNACK = 2  # a plain consumer has taken it, without ack or nack yet
ACKED = 5  # a plain consumer is done with it
ACK_FAILED = 9  # a plain consumer gave it up

_COLUMNS = {"_id", "data", "timestamp", "status"}

_CREATE = (
    """CREATE TABLE ledger (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        queue_id TEXT NOT NULL,
        created_at REAL NOT NULL,
        baseline INTEGER NOT NULL,
        delivered INTEGER NOT NULL DEFAULT 0,
        dead_lettered INTEGER NOT NULL DEFAULT 0,
        deleted INTEGER NOT NULL DEFAULT 0,
        retried INTEGER NOT NULL DEFAULT 0,
        discarded INTEGER NOT NULL DEFAULT 0,
        short INTEGER NOT NULL DEFAULT 0,
        last_delivery_at REAL
    )""",
    """CREATE TABLE control (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        consumer TEXT
    )""",
    """CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        event_id INTEGER NOT NULL,
        event TEXT NOT NULL,
        insert_id TEXT NOT NULL,
        reason TEXT NOT NULL,
        field TEXT NOT NULL,
        http_status INTEGER,
        accepted_at REAL NOT NULL,
        dead_at REAL NOT NULL,
        data BLOB
    )""",
    """CREATE TABLE deliveries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        delivered INTEGER NOT NULL,
        dead INTEGER NOT NULL,
        short INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        http_status INTEGER,
        tries INTEGER NOT NULL,
        took_s REAL NOT NULL,
        settled_at REAL NOT NULL,
        ids TEXT NOT NULL
    )""",
    """CREATE TABLE retries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        dead_letter_id INTEGER NOT NULL,
        event_id INTEGER NOT NULL,
        new_event_id INTEGER NOT NULL,
        at REAL NOT NULL
    )""",
    """CREATE TABLE salvages (
        source TEXT PRIMARY KEY,
        position INTEGER NOT NULL
    )""",
)
# What came with version 2.
_ADD = (
    "ALTER TABLE ledger ADD COLUMN held INTEGER NOT NULL DEFAULT 0",
    # When the newest event of the batch was added.
    "ALTER TABLE deliveries ADD COLUMN put_at REAL",
    f"""CREATE TABLE {HELD_TABLE} (
        _id INTEGER PRIMARY KEY,
        data BLOB NOT NULL,
        timestamp REAL NOT NULL,
        status INTEGER NOT NULL
    )""",
    "CREATE TABLE refusals (reason TEXT PRIMARY KEY, count INTEGER NOT NULL)",
)
TABLES = (
    TABLE, "ledger", "control", HELD_TABLE, "dead_letters", "deliveries", "retries", "salvages", "refusals",
)  # fmt: skip

# All events ever accepted: AUTOINCREMENT updates it in each insert's transaction, also of external producers.
SEQUENCE = f"coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{TABLE}'), 0)"

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
    if not 1 <= version <= VERSION:
        raise ConfigError(
            f"the queue's database has version {version}; this forwarder supports versions up to {VERSION}",
            "Nothing was changed; use the forwarder that made it",
        )
    return version


def refuse_others(connection: sqlite3.Connection, path: str) -> None:
    """Make sure, by reading only, that the database is empty or a queue of persist-queue.

    Raises:
        ConfigError: another program made it.
    """
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if not tables:
        return
    if "ledger" in tables and TABLE in tables:
        raise errors.damaged(os.path.dirname(path), "its application id is missing")
    columns = {row[1] for row in connection.execute(f"PRAGMA table_info({TABLE})")}
    # AUTOINCREMENT counts the events.
    counting = "SELECT 1 FROM sqlite_master WHERE name = ? AND sql LIKE '%autoincrement%'"
    if columns != _COLUMNS or not connection.execute(counting, (TABLE,)).fetchone():
        found = ", ".join(sorted(tables)[:5])
        raise ConfigError(
            f"{path} was made by another program: it has the tables {found} and no event queue",
            "Nothing was changed; use a directory only for the queue",
        )


def _make_tables(connection: sqlite3.Connection, path: str) -> None:
    """Turn an empty database into a queue, adopt one that plain persist-queue made, as it is, or update an
    older one of the forwarder's.

    What an adopted queue had before is not counted: its waiting rows are the first accepted ones.
    Call it inside a write transaction.

    Raises:
        ConfigError: it was made by another program or a newer version.
    """
    version = version_of(connection)
    if not version:
        _adopt(connection, path)
    if version < VERSION:
        for statement in _ADD:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _adopt(connection: sqlite3.Connection, path: str) -> None:
    refuse_others(connection, path)
    # Only here, because it takes a third of a producer's time to start.
    from persistqueue import SQLiteAckQueue as Upstream

    connection.execute(Upstream._SQL_CREATE.format(table_name=TABLE, key_column=Upstream._KEY_COLUMN))
    for statement in _CREATE:
        connection.execute(statement)
    connection.execute(
        f"INSERT INTO ledger (id, queue_id, created_at, baseline)"
        f" VALUES (1, ?, ?, {SEQUENCE} - (SELECT count(*) FROM {TABLE}))",
        (str(uuid.uuid4()), time.time()),
    )
    connection.execute("INSERT INTO control (id) VALUES (1)")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


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
