"""The tables beside persist-queue's own, and how a database becomes ours.

All of it is in one database, so that what must agree is settled in one transaction:

- ``ack_queue_default``: persist-queue's table, one row per waiting event (`persistqueue.SQLiteAckQueue`);
- ``ledger``: one row, the durable totals;
- ``control``: one row, what a person asked of the daemon;
- ``dead_letters``: refused events, each with its reason;
- ``deliveries``: one row per settled batch, the newest `KEPT_DELIVERIES` of them.
"""

from __future__ import annotations

import sqlite3
import time
import uuid

from persistqueue import SQLiteAckQueue

from forwarder.errors import ConfigError

APPLICATION_ID = 0x4D_50_46_51  # "MPFQ"
VERSION = 1
KEPT_DELIVERIES = 100_000

TABLE = "ack_queue_default"
# When a row was put, in seconds since the epoch; NULL where a stranger wrote what is no such instant (10**11
# is the year 5138).
PUT_AT = "iif(timestamp BETWEEN 0 AND 1e11, timestamp, NULL)"
# Text need not be UTF-8, and Python would fail on it.
ROW = f"SELECT _id, CAST(data AS BLOB), {PUT_AT}, status FROM {TABLE}"
_COLUMNS = {"_id", "data", "timestamp", "status"}
_CREATE_QUEUE = SQLiteAckQueue._SQL_CREATE.format(table_name=TABLE, key_column=SQLiteAckQueue._KEY_COLUMN)

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
        paused INTEGER NOT NULL DEFAULT 0,
        flush_requests INTEGER NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        event_id INTEGER NOT NULL,
        data BLOB,
        event TEXT NOT NULL,
        insert_id TEXT NOT NULL,
        reason TEXT NOT NULL,
        field TEXT NOT NULL,
        http_status INTEGER,
        accepted_at REAL NOT NULL,
        dead_at REAL NOT NULL
    )""",
    """CREATE TABLE deliveries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        first_id INTEGER NOT NULL,
        last_id INTEGER NOT NULL,
        delivered INTEGER NOT NULL,
        dead INTEGER NOT NULL,
        short INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        http_status INTEGER,
        tries INTEGER NOT NULL,
        settled_at REAL NOT NULL
    )""",
)

# All events ever accepted: AUTOINCREMENT keeps this in the transaction of each insert, foreign ones included.
SEQUENCE = f"coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{TABLE}'), 0)"


def is_ours(connection: sqlite3.Connection) -> bool:
    """Whether the database has been prepared by this version already.

    Raises:
        ConfigError: it was made by a newer version of the forwarder.
    """
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return False
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise ConfigError(
            f"the queue's database has version {version}, this forwarder knows {VERSION}",
            "Nothing was changed; use the newer forwarder that made it",
        )
    return bool(version == VERSION)


def refuse_strangers(connection: sqlite3.Connection, path: str) -> None:
    """Make sure, only reading, that the database is empty or a persist-queue queue.

    Raises:
        ConfigError: it was made by something else.
    """
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if not tables:
        return
    columns = {row[1] for row in connection.execute(f"PRAGMA table_info({TABLE})")}
    # AUTOINCREMENT is what counts the events.
    counting = "SELECT 1 FROM sqlite_master WHERE name = ? AND sql LIKE '%autoincrement%'"
    if columns != _COLUMNS or not connection.execute(counting, (TABLE,)).fetchone():
        found = ", ".join(sorted(tables)[:5])
        raise ConfigError(
            f"{path} was made by something else: it holds the tables {found} and no event queue",
            "Nothing was changed; set queue.path to a directory of the forwarder's own",
        )


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """Make an empty database ours, or adopt a queue that plain persist-queue made, as it is.

    What an adopted queue has had before counts as nobody's: its waiting rows are the first accepted.
    To be called inside a write transaction.
    """
    if is_ours(connection):
        return
    refuse_strangers(connection, path)
    connection.execute(_CREATE_QUEUE)
    for statement in _CREATE:
        connection.execute(statement)
    connection.execute(
        f"INSERT INTO ledger (id, queue_id, created_at, baseline)"
        f" VALUES (1, ?, ?, {SEQUENCE} - (SELECT count(*) FROM {TABLE}))",
        (str(uuid.uuid4()), time.time()),
    )
    connection.execute("INSERT INTO control (id) VALUES (1)")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def used_bytes(connection: sqlite3.Connection) -> int:
    """The bytes of the database that hold something; the rest of the file is free for new events."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    return int((pages - free) * size)
