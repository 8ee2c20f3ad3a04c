"""What a person does with dead letters: send them again, or delete them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from forwarder.errors import EventError
from forwarder.spool.sqlite.checkpoint import freeing
from forwarder.spool.sqlite.database import Database
from forwarder.spool.sqlite.schema import INSERT, KEPT_ENTRIES
from forwarder.spool.sqlite.status import READY
from forwarder.spool.values import as_bytes

STEP_LETTERS = 1000
STEP_BYTES = 4 << 20


def retry(
    path: str, ids: Iterable[int], edit: Callable[[bytes, float], bytes]
) -> tuple[dict[int, int], list[tuple[int, str]]]:
    """Put dead letters back into the queue, all that can be in one transaction.

    Each is accepted again: it gets a new row, and counts as accepted once more. ``retries`` keeps which.

    Args:
        ids: Of the dead letters; unknown ones are passed over.
        edit: From the stored bytes and when they were accepted (seconds since the epoch) to the bytes to
            queue; what it refuses with an EventError stays dead.

    Returns:
        the new row's id by that of each that was put back, and (id, reason) of each that stays.
    """
    stayed: list[tuple[int, str]] = []
    new_ids: dict[int, int] = {}
    now = time.time()
    queue = Database(path)
    try:
        with queue.transaction() as connection:
            for letter_id in ids:
                row = connection.execute(
                    "SELECT CAST(data AS BLOB), accepted_at, event_id FROM dead_letters WHERE id = ?",
                    (letter_id,),
                ).fetchone()
                if row is None:
                    continue
                try:
                    data = edit(as_bytes(row[0]), row[1])
                except EventError as error:
                    stayed.append((letter_id, str(error)))
                    continue
                new_id = connection.execute(INSERT, (data, now, READY)).lastrowid
                assert new_id is not None
                new_ids[letter_id] = new_id
                connection.execute(
                    "INSERT INTO retries (dead_letter_id, event_id, new_event_id, at) VALUES (?, ?, ?, ?)",
                    (letter_id, row[2], new_id, now),
                )
                connection.execute("DELETE FROM dead_letters WHERE id = ?", (letter_id,))
            connection.execute("UPDATE ledger SET retried = retried + ?", (len(new_ids),))
            connection.execute(
                "DELETE FROM retries WHERE id <= (SELECT max(id) FROM retries) - ?", (KEPT_ENTRIES,)
            )
    finally:
        queue.close()
    return new_ids, stayed


def delete(path: str, ids: Sequence[int]) -> int:
    """Delete dead letters for good. Returns how many there were of *ids*."""
    queue = Database(path)
    try:
        return freeing(queue, queue.transaction, partial(discard, ids=ids))
    finally:
        queue.close()


@dataclass(frozen=True, slots=True)
class Expired:
    """Dead letters that are too old, among those up to *last_id*."""

    ids: Sequence[int]
    last_id: int


def expired(connection: sqlite3.Connection, before: float, after_id: int) -> Expired:
    """Of the next dead letters behind *after_id* those that died before (seconds since the epoch): as many
    as can be deleted without keeping others waiting."""
    ids: list[int] = []
    last_id = after_id
    size_bytes = 0
    query = (
        # Of text, as a stranger may have put it, SQLite would have to read all to know its length.
        "SELECT id, dead_at < ?, iif(typeof(data) = 'blob', length(data), 0) FROM dead_letters"
        " WHERE id > ? ORDER BY id LIMIT ?"
    )
    with closing(connection.execute(query, (before, after_id, STEP_LETTERS))) as found:
        for letter_id, is_old, data_bytes in found:
            last_id = letter_id
            size_bytes += data_bytes
            if is_old:
                ids.append(letter_id)
            if size_bytes >= STEP_BYTES:
                break
    return Expired(ids, last_id)


def discard(connection: sqlite3.Connection, ids: Sequence[int]) -> int:
    """Delete those of the dead letters *ids* that are still there. Returns how many.

    To be called inside a write transaction.
    """
    count = connection.executemany(
        "DELETE FROM dead_letters WHERE id = ?", [(letter_id,) for letter_id in ids]
    ).rowcount
    connection.execute("UPDATE ledger SET discarded = discarded + ?", (count,))
    return count
