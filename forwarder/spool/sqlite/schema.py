"""The tables beside persist-queue's own, how a database becomes ours, and opening it.

All of it is in one database, so that what must agree is settled in one transaction:

- ``ack_queue_default``: persist-queue's table, one row per waiting event (`persistqueue.SQLiteAckQueue`);
- ``ledger``: one row, the durable totals;
- ``control``: one row, the mark of the newest consumer;
- ``held``: events that a person keeps from delivery, each as the row it was;
- ``dead_letters``: refused events, each with its reason; the data last, so that SQLite neither reads it on
  its way to another column nor needs it in one piece;
- ``deliveries``: one row per settled batch, with exactly its ids (``1-2000,2003``) and how long its request
  took; the newest `KEPT_ENTRIES` of them;
- ``retries``: which event a retried dead letter has become; the newest `KEPT_ENTRIES`;
- ``salvages``: how much of each damaged database has been brought back;
- ``refusals``: how many events producers were refused, by reason.
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
# Rows cut from one piece of bytes, ?1: for each, ?2 has its place in it, counted from 1, and its size. In one
# statement for all a row costs half of what it does in one of its own, and the interpreter is free meanwhile.
SIZE_BITS = 20
INSERT_SET = (
    f"INSERT INTO {TABLE} (data, timestamp, status)"
    f" SELECT substr(?1, value >> {SIZE_BITS}, value & {(1 << SIZE_BITS) - 1}), ?3, ?4 FROM json_each(?2)"
)
# When a row was put, in seconds since the epoch; NULL where a stranger wrote what is no such instant (10**11
# is the year 5138).
PUT_AT = "iif(timestamp BETWEEN 0 AND 1e11, timestamp, NULL)"
# Text need not be UTF-8, and Python would fail on it.
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
UNACK = 2  # a plain consumer has taken it and not said more
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
    # When the newest event of the batch was put.
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
    *(
        TABLE,
        "ledger",
        "control",
        HELD_TABLE,
        "dead_letters",
        "deliveries",
        "retries",
        "salvages",
        "refusals",
    ),
)

# All events ever accepted: AUTOINCREMENT keeps this in the transaction of each insert, foreign ones included.
SEQUENCE = f"coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{TABLE}'), 0)"

# No queue comes to this id by itself: 2**53 events are 9,500 years of 30,000 a second, and the largest whole
# number that every reader of JSON keeps. SQLite gives no id behind 2**63 - 1, and calls that a full disk.
MOST_ID = 1 << 53


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the tables; 0: the database is not ours yet. Below `VERSION` it is to be prepared.

    Raises:
        ConfigError: a newer forwarder has made it.
    """
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return 0
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if not 1 <= version <= VERSION:
        raise ConfigError(
            f"the queue's database has version {version}, and this forwarder knows versions up to {VERSION}",
            "Nothing was changed; use the forwarder that made it",
        )
    return version


def refuse_others(connection: sqlite3.Connection, path: str) -> None:
    """Make sure, only reading, that the database is empty or a persist-queue queue.

    Raises:
        ConfigError: it was made by something else.
    """
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if not tables:
        return
    if "ledger" in tables and TABLE in tables:
        raise errors.damaged(os.path.dirname(path), "it has lost the mark that says what it is")
    columns = {row[1] for row in connection.execute(f"PRAGMA table_info({TABLE})")}
    # AUTOINCREMENT is what counts the events.
    counting = "SELECT 1 FROM sqlite_master WHERE name = ? AND sql LIKE '%autoincrement%'"
    if columns != _COLUMNS or not connection.execute(counting, (TABLE,)).fetchone():
        found = ", ".join(sorted(tables)[:5])
        raise ConfigError(
            f"{path} was made by something else: it holds the tables {found} and no event queue",
            "Nothing was changed; use a directory of the queue's own",
        )


def _make_tables(connection: sqlite3.Connection, path: str) -> None:
    """Make an empty database ours, or adopt a queue that plain persist-queue made, as it is; add to an older
    one of ours what it lacks.

    What an adopted queue has had before counts as nobody's: its waiting rows are the first accepted.
    To be called inside a write transaction.

    Raises:
        ConfigError: it was made by something else, or by a newer version.
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
    # Only here, as it takes a third of the time that a producer needs to start.
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
        version = version_of(connection)
        if not version:
            refuse_others(connection, file)
        if version < VERSION:
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


def undo(connection: sqlite3.Connection, error: BaseException, path: str) -> None:
    """Roll a transaction back that *error* has ended.

    Raises:
        DamagedError: what SQLite took for a full disk is a table without an id for another row.
    """
    # SQLite has undone it itself after some errors, a full disk among them.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" and used_up(connection):
        raise errors.used_up(path) from error


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    # Only takes effect before the first table; an adopted database goes without.
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
    # Now, not when a daemon starts: by then the disk may be full.
    room.fill_reserve(path)


def used_up(connection: sqlite3.Connection) -> list[str]:
    """The tables whose ids have come to where only a stranger's row can have brought them."""
    query = "SELECT name FROM sqlite_sequence WHERE seq NOT BETWEEN 0 AND ? ORDER BY name"
    return [str(name) for (name,) in connection.execute(query, (MOST_ID,))]


def used_bytes(connection: sqlite3.Connection) -> int:
    """The bytes of the database that hold something; the rest of the file is free for new events."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    return int((pages - free) * size)
