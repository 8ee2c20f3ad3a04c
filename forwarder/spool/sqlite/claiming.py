"""Reading the next rows for a claim: in one piece if all are our own, else one by one. Rows of external
producers are completed here."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from forwarder.records import Lines
from forwarder.spool.origin import Origin
from forwarder.spool.sqlite import tables
from forwarder.spool.sqlite.errors import damaged
from forwarder.spool.sqlite.schema import MOST_ID
from forwarder.spool.sqlite.tables import ID_LENGTH, Tables
from forwarder.spool.statuses import READY, SENT
from forwarder.spool.values import Claim, Dead

# A row with an id above `MOST_ID` makes the database a damaged one; all other rows are delivered first.
# If all rows begin with a brace and together hold as many values as there are rows, each holds exactly one.
_OWN = f"status = {READY} AND length(data) <= {{}} AND substr(data, 1, 1) = x'7b'"
_PIECE = (
    f"SELECT count(*), min(_id), max(_id), sum({_OWN}), CAST(group_concat(data, x'0a') AS BLOB)"
    f" FROM (SELECT _id, data, status FROM {{}} WHERE _id > ? AND _id <= {MOST_ID}"
    " ORDER BY _id LIMIT ?)"
)


def origin_of(connection: sqlite3.Connection, its: Tables, path: str) -> Origin:
    """Of the rows in *its* queue in *path*, as its totals say."""
    row = connection.execute(f"SELECT queue_id, created_at FROM {its.ledger}").fetchone()
    if row is None:
        raise damaged(path, "the totals table is empty")
    return Origin(its.kind, str(row[0])[:ID_LENGTH], row[1])


@dataclass(slots=True)
class Rows(Claim):
    """A claim, and the last row that was read for it: the next claim starts behind it.

    *is_clear*: rows that are not events were removed; that may fail for lack of room.
    """

    last_id: int = 0
    is_clear: bool = True


class RowReader:
    """Reads the rows behind an id, up to a number and a size with line ends; a single one may be larger.

    Reading them as one piece of text costs a third of reading them one by one.
    """

    def __init__(self, origin: Origin) -> None:
        self._kind = origin.kind
        its = tables.of(origin.kind)
        self._rows = its.rows
        self._by_ids = f"{its.row} WHERE _id IN (SELECT value FROM json_each(?)) ORDER BY _id"
        self._piece = _PIECE.format(origin.kind.max_bytes, its.queue)
        self._origin = origin
        # If the size limits a claim, not the count, reading in one piece would be wasted.
        self._is_bound_by_bytes = False

    def read(
        self, connection: sqlite3.Connection, after_id: int, max_events: int, max_bytes: int
    ) -> tuple[Rows, list[Dead], list[int]]:
        """The rows behind *after_id*: events, rows that are not events, and the ids of acked rows.

        Raises:
            sqlite3.Error: the database can't be read.
        """
        if max_events > 1 and not self._is_bound_by_bytes:
            claim = self._in_one_piece(connection, after_id, max_events, max_bytes)
            if claim is not None:
                return claim, [], []
        with closing(connection.execute(self._rows, (after_id, MOST_ID, max_events))) as found:
            return self._one_by_one(found, after_id, max_bytes)

    def read_ids(
        self, connection: sqlite3.Connection, ids: Sequence[int]
    ) -> tuple[Rows, list[Dead], list[int]]:
        """As `read`, the rows with these *ids*, in ascending order, whatever their size."""
        with closing(connection.execute(self._by_ids, (str(list(ids)),))) as found:
            return self._one_by_one(found, ids[0] - 1, math.inf)

    def _one_by_one(
        self, found: Iterable[tuple[Any, ...]], after_id: int, max_bytes: float
    ) -> tuple[Rows, list[Dead], list[int]]:
        ids: list[int] = []
        events: list[bytes] = []
        dead: list[Dead] = []
        acked: list[int] = []
        doubtful: list[int] = []
        claim = Rows(ids, events, doubtful=doubtful, last_id=after_id)
        read_bytes = 0
        self._is_bound_by_bytes = False
        for row_id, data, put_at, status in found:
            final = self._origin.read(row_id, data, put_at, status)
            size_bytes = len(final if isinstance(final, bytes) else data or b"") + 1
            if read_bytes + size_bytes > max_bytes and claim.last_id > after_id:
                self._is_bound_by_bytes = True
                break
            read_bytes += size_bytes
            claim.last_id = row_id
            if isinstance(final, bytes):
                ids.append(row_id)
                events.append(final)
                claim.size_bytes += size_bytes
                if status == SENT:
                    doubtful.append(row_id)
            elif final is None:
                acked.append(row_id)
            else:
                dead.append(final)
        return claim, dead, acked

    def _in_one_piece(
        self, connection: sqlite3.Connection, after_id: int, max_events: int, max_bytes: int
    ) -> Rows | None:
        """The rows behind *after_id*, if all are our own events, without a gap, and within *max_bytes*."""
        # SQLite stops before the text is larger than allowed.
        before = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max_bytes)
        try:
            row = connection.execute(self._piece, (after_id, max_events)).fetchone()
        except sqlite3.DataError:
            return None
        finally:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)
        count, first_id, last_id, own, text = row
        if not count:
            return Rows(last_id=after_id)
        if own != count or last_id - first_id + 1 != count:
            return None
        text += b"\n"
        if len(text) > max_bytes or not self._kind.are_final(text, count):
            return None
        return Rows(range(first_id, last_id + 1), Lines(text, count), len(text), last_id=last_id)
