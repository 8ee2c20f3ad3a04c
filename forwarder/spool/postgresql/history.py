"""The history of a kind on the server: a row a minute, and one an hour."""

from __future__ import annotations

from forwarder.spool.history import COLUMNS, HOURS, MINUTES, Period, merged, of_rows, to_row
from forwarder.spool.postgresql.client import Connection
from forwarder.spool.postgresql.tables import Tables

_NAMES = ", ".join(COLUMNS)
_SET = ", ".join(["%s"] * (len(COLUMNS) + 1))


def add(connection: Connection, its: Tables, period: Period) -> None:
    """Add a minute; the first one of an hour sums up the hour before, and deletes what is too old.

    Call it inside a transaction."""
    newest = read(connection, its, False, 1)
    if newest and newest[0].hour != period.hour:
        _sum_up(connection, its)
    _insert(connection, its, False, period)


def _sum_up(connection: Connection, its: Tables) -> None:
    rows = connection.rows(
        f"SELECT {_NAMES} FROM {its.history} WHERE NOT hourly"
        f" AND id > coalesce((SELECT max(id) FROM {its.history} WHERE hourly), 0) ORDER BY id"
    )
    _insert(connection, its, True, merged(of_rows(rows)))
    for hourly, kept in ((False, MINUTES), (True, HOURS)):
        connection.execute(
            f"DELETE FROM {its.history} WHERE hourly = %s AND id <= (SELECT id FROM {its.history}"
            " WHERE hourly = %s ORDER BY id DESC LIMIT 1 OFFSET %s)",
            [hourly, hourly, kept],
        )


def _insert(connection: Connection, its: Tables, hourly: bool, period: Period) -> None:
    connection.execute(
        f"INSERT INTO {its.history} (hourly, {_NAMES}) VALUES ({_SET})", [hourly, *to_row(period)]
    )


def read(connection: Connection, its: Tables, hourly: bool, count: int) -> list[Period]:
    """See `engine.View.history`."""
    rows = connection.rows(
        f"SELECT {_NAMES} FROM {its.history} WHERE hourly = %s ORDER BY id DESC LIMIT %s", [hourly, count]
    )
    return of_rows(reversed(rows))
