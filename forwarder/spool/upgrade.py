"""Bringing a queue's database from an older version of the schema to this one.

A step is what was released with its version, for good: what changes later is a step of its own.
None may break the statements of older programs: a producer or daemon that has the queue open goes on with
them until it is started anew. Rows of the queue are not touched, or a step would take longer with millions.
"""

from __future__ import annotations

import sqlite3

from forwarder.spool.sqlite_errors import damaged

# By the version that is left behind.
STEPS: dict[int, tuple[str, ...]] = {
    1: (
        """CREATE TABLE salvages (
        source TEXT PRIMARY KEY,
        position INTEGER NOT NULL
    )""",
        "ALTER TABLE control ADD COLUMN consumer TEXT",
    ),
}
_TABLES = ("ack_queue_default", "ledger", "control", "dead_letters", "deliveries")


def upgrade(connection: sqlite3.Connection, path: str, version: int) -> None:
    """Take the steps from *version* on, when what they build on has been found sound.

    To be called inside a write transaction, with the database of the queue in the directory *path*.

    Raises:
        DamagedError: the database is not what that version has made.
    """
    fault = _fault(connection)
    if fault:
        raise damaged(path, f"of version {version}: {fault}")
    for step in range(version, max(STEPS) + 1):
        for statement in STEPS[step]:
            connection.execute(statement)


def _fault(connection: sqlite3.Connection) -> str:
    """What is wrong with the tables and the totals; events themselves are looked at when it is their turn."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table in _TABLES:
        if table not in there:
            return f"it has lost the table {table}"
    for table in ("ledger", "control"):
        (told,) = connection.execute(f"PRAGMA quick_check({table})").fetchone()
        if told != "ok":
            return str(told)
        if connection.execute(f"SELECT count(*) FROM {table}").fetchone() != (1,):
            return "it has lost its books"
    return ""
