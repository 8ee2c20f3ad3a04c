"""How many records producers were refused, by reason, in the database; see `forwarder.spool.refused`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing

from forwarder.spool.refused import PATIENCE_S
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.directory import DATABASE
from forwarder.spool.sqlite.tables import Tables


def save(connection: sqlite3.Connection, tables: Tables, counts: Mapping[str, int]) -> None:
    """Add *counts* to what is written; inside a write transaction."""
    connection.executemany(
        f"INSERT INTO {tables.refusals} (reason, count) VALUES (?, ?)"
        " ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
        list(counts.items()),
    )


def save_alone(path: str, tables: Tables, counts: Mapping[str, int]) -> None:
    """`save` in a commit of its own, to the queue in *path*."""
    # A queue whose directory was moved away is not made again for this.
    if os.path.exists(os.path.join(path, DATABASE)):
        with closing(Database(path, PATIENCE_S)) as database, database.transaction() as connection:
            save(connection, tables, counts)


def read(connection: sqlite3.Connection, tables: Tables) -> dict[str, int]:
    """What is written."""
    return dict(connection.execute(f"SELECT reason, count FROM {tables.refusals} ORDER BY reason"))
