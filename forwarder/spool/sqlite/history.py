"""The history of a kind in the database: a row a minute, and one an hour."""

from __future__ import annotations

import sqlite3

from forwarder.spool.history import COLUMNS, HOURS, MINUTES, TEXTS, Period, merged, of_rows, to_row
from forwarder.spool.sqlite.tables import Tables

_NAMES = ", ".join(COLUMNS)
# As bytes: damaged text is no UTF-8.
_READ = ", ".join(f"CAST({name} AS BLOB)" if name in TEXTS else name for name in COLUMNS)
_SET = ", ".join("?" * (len(COLUMNS) + 1))


def add(connection: sqlite3.Connection, tables: Tables, period: Period) -> None:
    """Add a minute; the first one of an hour sums up the hour before, and deletes what is too old.

    Call it inside a write transaction."""
    newest = read(connection, tables, False, 1)
    if newest and newest[0].hour != period.hour:
        _sum_up(connection, tables)
    _insert(connection, tables, False, period)


def _sum_up(connection: sqlite3.Connection, tables: Tables) -> None:
    last = f"coalesce((SELECT id FROM {tables.history} WHERE hourly = 1 ORDER BY id DESC LIMIT 1), 0)"
    rows = connection.execute(
        f"SELECT {_READ} FROM {tables.history} WHERE hourly = 0 AND id > {last} ORDER BY id"
    ).fetchall()
    _insert(connection, tables, True, merged(of_rows(rows)))
    for hourly, kept in ((False, MINUTES), (True, HOURS)):
        connection.execute(
            f"DELETE FROM {tables.history} WHERE hourly = ?1 AND id <= (SELECT id FROM {tables.history}"
            " WHERE hourly = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            (hourly, kept),
        )


def _insert(connection: sqlite3.Connection, tables: Tables, hourly: bool, period: Period) -> None:
    connection.execute(
        f"INSERT INTO {tables.history} (hourly, {_NAMES}) VALUES ({_SET})", [hourly, *to_row(period)]
    )


def read(connection: sqlite3.Connection, tables: Tables, hourly: bool, count: int) -> list[Period]:
    """See `engine.View.history`."""
    rows = connection.execute(
        f"SELECT {_READ} FROM {tables.history} WHERE hourly = ? ORDER BY id DESC LIMIT ?", (hourly, count)
    ).fetchall()
    return of_rows(reversed(rows))
