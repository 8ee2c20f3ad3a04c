"""The tables of one kind of records, and the statements that are made of their names.

Each kind has its own set in the one database, so that one transaction settles what must agree. The names of
events are bare; those of the others end in the name of their queue, such as ``ledger_engage``:

- ``ack_queue_default``: persist-queue's table, one row per waiting record (`persistqueue.SQLiteAckQueue`);
- ``ledger``: one row, the durable totals;
- ``control``: one row, the mark of the newest consumer;
- ``held``: records that a person holds back, each as the row it was;
- ``dead_letters``: refused records, each with its reason; the data is last, so that SQLite reads the other
  columns without it;
- ``deliveries``: one row per settled batch, with its exact ids (``1-2000,2003``) and its request's duration;
  the newest `KEPT_ENTRIES`;
- ``retries``: the record that a retried dead letter, or with ``dead_letter_id`` 0 a released one, has become;
  the newest `KEPT_ENTRIES`;
- ``refusals``: how many records of producers were refused, by reason;
- ``history``: a row a minute, and one an hour, see `forwarder.spool.history`;
- ``bookmarks``: how far files of records are in, see `forwarder.spool.sqlite.bookmarks`.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

from forwarder.records import EVENTS

if TYPE_CHECKING:
    from forwarder.records.kind import Kind

KEPT_ENTRIES = 100_000
ID_LENGTH = 36  # of a UUID

# When a row was added, in seconds since the epoch; NULL if an external producer wrote something else (10**11
# is the year 5138).
PUT_AT = "iif(timestamp BETWEEN 0 AND 1e11, timestamp, NULL)"
# Text may not be UTF-8; Python would fail on it.
_ROW = (
    f"SELECT _id, CAST(data AS BLOB) AS data, {PUT_AT} AS put_at,"
    " iif(typeof(status) = 'integer', status, NULL) AS status FROM "
)
# Rows cut from one piece of bytes, ?1. For each row, ?2 has its place, counted from 1, and its size. In one
# statement for all, a row costs half as much as in its own, and the interpreter is free meanwhile.
SIZE_BITS = 20

_COLUMNS = {"_id", "data", "timestamp", "status"}


class Tables:
    """The names, and the statements that several modules use; see `of`.

    Attributes:
        kind: What the records are.
        row, held_row: Selects waiting and held records: id, data as bytes, put_at (seconds since the epoch,
            or NULL) and status.
        rows: Selects those after an id, up to another, and at most so many.
        insert: Adds a row: data, timestamp, status.
        insert_set: Adds many; see `SIZE_BITS`.
        sequence: The number of records ever accepted: AUTOINCREMENT updates it in each insert's transaction,
            also of external producers.
        names: All tables.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.suffix = suffix = "" if kind.queue == "default" else f"_{kind.queue}"
        self.queue = f"ack_queue_{kind.queue}"
        self.ledger, self.control, self.held = f"ledger{suffix}", f"control{suffix}", f"held{suffix}"
        self.dead_letters, self.deliveries = f"dead_letters{suffix}", f"deliveries{suffix}"
        self.retries, self.refusals = f"retries{suffix}", f"refusals{suffix}"
        self.history, self.bookmarks = f"history{suffix}", f"bookmarks{suffix}"
        self.names = (
            self.queue, self.ledger, self.control, self.held, self.dead_letters, self.deliveries,
            self.retries, self.refusals, self.history, self.bookmarks,
        )  # fmt: skip
        self.row, self.held_row = _ROW + self.queue, _ROW + self.held
        self.rows = f"{self.row} WHERE _id > ? AND _id <= ? ORDER BY _id LIMIT ?"
        self.insert = f"INSERT INTO {self.queue} (data, timestamp, status) VALUES (?, ?, ?)"
        self.insert_set = (
            f"INSERT INTO {self.queue} (data, timestamp, status)"
            f" SELECT substr(?1, value >> {SIZE_BITS}, value & {(1 << SIZE_BITS) - 1}), ?3, ?4"
            " FROM json_each(?2)"
        )
        self._index = (
            f"CREATE INDEX IF NOT EXISTS dead_letters_event_id{suffix} ON {self.dead_letters} (event_id)"
        )
        self.sequence = f"coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{self.queue}'), 0)"

    def is_external_queue(self, connection: sqlite3.Connection) -> bool | None:
        """Whether the queue's table is as persist-queue makes it; None: there is none."""
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({self.queue})")}
        if not columns:
            return None
        # AUTOINCREMENT counts the records.
        counting = "SELECT 1 FROM sqlite_master WHERE name = ? AND sql LIKE '%autoincrement%'"
        return columns == _COLUMNS and bool(connection.execute(counting, (self.queue,)).fetchone())

    def make(self, connection: sqlite3.Connection, queue_id: str) -> None:
        """Make the tables, inside a write transaction. A queue of persist-queue's is adopted as it is.

        What that had before is not counted: its waiting rows are the first accepted ones.
        """
        # Only here, because it takes a third of a producer's time to start.
        from persistqueue import SQLiteAckQueue as Upstream

        connection.execute(
            Upstream._SQL_CREATE.format(table_name=self.queue, key_column=Upstream._KEY_COLUMN)
        )
        for name, columns in _CREATE.items():
            connection.execute(f"CREATE TABLE {name}{self.suffix} ({columns})")
        connection.execute(self._index)
        connection.execute(
            f"INSERT INTO {self.ledger} (id, queue_id, created_at, baseline)"
            f" VALUES (1, ?, ?, {self.sequence} - (SELECT count(*) FROM {self.queue}))",
            (queue_id + self.suffix, time.time()),
        )
        connection.execute(f"INSERT INTO {self.control} (id) VALUES (1)")

    def are_made(self, connection: sqlite3.Connection) -> bool:
        """Whether there are such tables, of this version or an older one."""
        return bool(connection.execute(f"PRAGMA table_info({self.ledger})").fetchone())

    def renew(self, connection: sqlite3.Connection, version: int) -> None:
        """Add what tables of an older *version* lack, inside a write transaction."""
        connection.execute(f"CREATE TABLE {self.bookmarks} ({_CREATE['bookmarks']})")
        if version < 4:
            connection.execute(f"CREATE TABLE {self.history} ({_CREATE['history']})")
            connection.execute(f"ALTER TABLE {self.deliveries} ADD COLUMN dead_ids TEXT NOT NULL DEFAULT ''")
            connection.execute(self._index)


_made: dict[str, Tables] = {}


def of(kind: Kind) -> Tables:
    """The tables of *kind*."""
    return _made.get(kind.queue) or _made.setdefault(kind.queue, Tables(kind))


def each() -> list[Tables]:
    """The tables of all kinds."""
    from forwarder.records import KINDS

    return [of(kind) for kind in KINDS.values()]


_CREATE = {
    "ledger": """
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
        last_delivery_at REAL,
        held INTEGER NOT NULL DEFAULT 0
    """,
    "control": """
        id INTEGER PRIMARY KEY CHECK (id = 1),
        consumer TEXT
    """,
    "held": """
        _id INTEGER PRIMARY KEY,
        data BLOB NOT NULL,
        timestamp REAL NOT NULL,
        status INTEGER NOT NULL
    """,
    "dead_letters": """
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
    """,
    # put_at: when the newest record of the batch was added; dead_ids: which of the ids were refused.
    "deliveries": """
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        delivered INTEGER NOT NULL,
        dead INTEGER NOT NULL,
        short INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        http_status INTEGER,
        tries INTEGER NOT NULL,
        took_s REAL NOT NULL,
        settled_at REAL NOT NULL,
        ids TEXT NOT NULL,
        put_at REAL,
        dead_ids TEXT NOT NULL DEFAULT ''
    """,
    "retries": """
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        dead_letter_id INTEGER NOT NULL,
        event_id INTEGER NOT NULL,
        new_event_id INTEGER NOT NULL,
        at REAL NOT NULL
    """,
    "refusals": """
        reason TEXT PRIMARY KEY,
        count INTEGER NOT NULL
    """,
    "history": """
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        hourly INTEGER NOT NULL,
        ended_at REAL NOT NULL,
        lasted_s REAL NOT NULL,
        run REAL NOT NULL,
        accepted INTEGER NOT NULL,
        delivered INTEGER NOT NULL,
        dead_lettered INTEGER NOT NULL,
        deleted INTEGER NOT NULL,
        refused INTEGER NOT NULL,
        waiting INTEGER NOT NULL,
        held INTEGER NOT NULL,
        oldest_waiting_s REAL NOT NULL,
        requests TEXT NOT NULL,
        sent_bytes INTEGER NOT NULL,
        p50_s REAL,
        p95_s REAL,
        used_bytes INTEGER NOT NULL,
        disk_free_bytes INTEGER,
        states TEXT NOT NULL,
        reason TEXT NOT NULL
    """,
    # The largest id is that of the one that was moved last.
    "bookmarks": """
        id INTEGER PRIMARY KEY,
        path TEXT NOT NULL,
        file TEXT NOT NULL,
        done INTEGER NOT NULL,
        digest TEXT NOT NULL,
        UNIQUE (path, file)
    """,
}

OF_EVENTS = of(EVENTS)
