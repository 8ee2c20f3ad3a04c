"""How settled rows leave the queue, and in which parts.

Functions that take a connection must be called inside a write transaction, and concern the given tables.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace

from forwarder.spool.sqlite import dead_letters
from forwarder.spool.sqlite.tables import KEPT_ENTRIES, PUT_AT, Tables
from forwarder.spool.statuses import READY, SENT
from forwarder.spool.values import Dead, Settlement

PIECE_BYTES = 256 * 1024
VACUUM_PAGES = 1000  # 4 MB of log at most, as much as the reserve


def settle(connection: sqlite3.Connection, tables: Tables, settlement: Settlement) -> None:
    """Rows out, dead letters in, totals, delivery log.

    Events that a person has deleted or held meanwhile are counted as deleted or held, not here.
    """
    now = time.time()
    runs = settlement.runs
    found = (dead_letters.new_dead_letter(connection, tables, each, now) for each in settlement.dead)
    letters = [letter for letter in found if letter]
    put_at = connection.execute(
        f"SELECT {PUT_AT} FROM {tables.queue} WHERE _id = ?", (runs[-1][1],)
    ).fetchone()
    # Deleted first: on a full disk a dead letter needs the space that the row frees.
    delivered = _delete(connection, tables, runs) - len(letters)
    dead_letters.add(connection, tables, letters)
    connection.execute(
        f"UPDATE {tables.ledger} SET delivered = delivered + ?, dead_lettered = dead_lettered + ?,"
        " short = short + ?, last_delivery_at = iif(?, ?, last_delivery_at)",
        (delivered, len(letters), settlement.short, delivered > 0, now),
    )
    entry = connection.execute(
        f"INSERT INTO {tables.deliveries} (ids, delivered, dead, short, size_bytes, http_status,"
        " tries, took_s, settled_at, put_at, dead_ids) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            settlement.id_list,
            delivered,
            len(letters),
            settlement.short,
            settlement.size_bytes,
            settlement.http_status,
            settlement.tries,
            settlement.took_s,
            now,
            *(put_at or (None,)),
            settlement.dead_id_list,
        ),
    ).lastrowid
    assert entry is not None
    connection.execute(f"DELETE FROM {tables.deliveries} WHERE id <= ?", (entry - KEPT_ENTRIES,))


def refuse_rows(
    connection: sqlite3.Connection, tables: Tables, dead: Sequence[tuple[bytes, str]], now: float
) -> int:
    """Accept what is not a record, with the reason, as a dead letter at once. Returns the last row's id."""
    ids = [connection.execute(tables.insert, (data, now, READY)).lastrowid or 0 for data, _ in dead]
    settle(
        connection,
        tables,
        Settlement(ids, [Dead(row_id, *why) for row_id, why in zip(ids, dead, strict=True)], tries=0),
    )
    return ids[-1]


def delete_acked(connection: sqlite3.Connection, tables: Tables, ids: Sequence[int]) -> None:
    """Delete rows that a plain consumer has acked."""
    _delete(connection, tables, Settlement(ids).runs)
    connection.execute(f"UPDATE {tables.ledger} SET deleted = deleted + ?", (len(ids),))


def _delete(connection: sqlite3.Connection, tables: Tables, runs: Sequence[tuple[int, int]]) -> int:
    return connection.executemany(f"DELETE FROM {tables.queue} WHERE _id BETWEEN ? AND ?", runs).rowcount


def mark_sent(connection: sqlite3.Connection, tables: Tables, ids: Sequence[int], *, sent: bool) -> int:
    """Mark rows as being sent, or no longer. Returns how many there are."""
    status = SENT if sent else READY
    return connection.executemany(
        f"UPDATE {tables.queue} SET status = {status} WHERE _id = ?", [(row_id,) for row_id in ids]
    ).rowcount


def missing(tables: Tables) -> str:
    """How many rows others have deleted, as SQL; known only when the table is empty."""
    return (
        f"coalesce((SELECT max({tables.sequence} - baseline - delivered - dead_lettered - deleted - held, 0)"
        f" FROM {tables.ledger} WHERE NOT EXISTS (SELECT 1 FROM {tables.queue})), 0)"
    )


def account_missing(connection: sqlite3.Connection, tables: Tables) -> None:
    """Count as deleted what is `missing`."""
    connection.execute(f"UPDATE {tables.ledger} SET deleted = {missing(tables)} + deleted")


def vacuum(connection: sqlite3.Connection) -> None:
    """Give `VACUUM_PAGES` free pages back."""
    for _ in range(VACUUM_PAGES):
        # SQLite gives back one page per sqlite3_step(), and Python's execute() does one step.
        connection.execute("PRAGMA incremental_vacuum(1)")


def parts(settlement: Settlement) -> list[Settlement]:
    """The same in parts, to settle in this order: what frees space, then dead letters in pieces."""
    dead_ids = {letter.event_id for letter in settlement.dead}
    delivered = [row_id for row_id in settlement.ids if row_id not in dead_ids]
    found = [replace(settlement, ids=delivered, dead=())] if delivered else []
    for letters in _pieces(settlement.dead):
        ids = [letter.event_id for letter in letters]
        found.append(replace(settlement, ids=ids, dead=letters, short=0, size_bytes=0))
    return found


def without(settlement: Settlement, ids: Set[int]) -> Settlement:
    """What is left of it after *ids* and all delivered rows are settled."""
    if not ids or ids.isdisjoint(settlement.ids):
        return settlement
    return replace(
        settlement,
        ids=[row_id for row_id in settlement.ids if row_id not in ids],
        dead=[letter for letter in settlement.dead if letter.event_id not in ids],
        short=0,
        size_bytes=0,
    )


def _pieces(dead: Sequence[Dead]) -> Iterator[Sequence[Dead]]:
    """Pieces that fit into the reserve; each frees the space that the next one needs."""
    piece: list[Dead] = []
    size_bytes = 0
    for letter in dead:
        size_bytes += len(letter.data or b"")
        piece.append(letter)
        if size_bytes >= PIECE_BYTES:
            yield piece
            piece, size_bytes = [], 0
    if piece:
        yield piece
