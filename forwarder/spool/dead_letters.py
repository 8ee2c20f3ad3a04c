"""What a person does with dead letters: send them again, or delete them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from forwarder.errors import EventError
from forwarder.spool.ackqueue import INSERT, AckQueue
from forwarder.spool.records import as_bytes
from forwarder.spool.status import READY


def retry(
    path: str, ids: Iterable[int], edit: Callable[[bytes, float], bytes]
) -> tuple[int, list[tuple[int, str]]]:
    """Put dead letters back into the queue, all that can be in one transaction.

    Each is accepted anew: it gets a new row, and counts as accepted once more.

    Args:
        ids: Of the dead letters; unknown ones are passed over.
        edit: From the stored bytes and when they were accepted (seconds since the epoch) to the bytes to
            queue; what it refuses with an EventError stays dead.

    Returns:
        how many were put back, and (id, reason) of each that stays.
    """
    stayed: list[tuple[int, str]] = []
    count = 0
    queue = AckQueue(path)
    try:
        with queue.transaction() as connection:
            for letter_id in ids:
                row = connection.execute(
                    "SELECT CAST(data AS BLOB), accepted_at FROM dead_letters WHERE id = ?", (letter_id,)
                ).fetchone()
                if row is None:
                    continue
                try:
                    data = edit(as_bytes(row[0]), row[1])
                except EventError as error:
                    stayed.append((letter_id, str(error)))
                    continue
                connection.execute(INSERT, (data, time.time(), READY))
                connection.execute("DELETE FROM dead_letters WHERE id = ?", (letter_id,))
                count += 1
            connection.execute("UPDATE ledger SET retried = retried + ?", (count,))
    finally:
        queue.close()
    return count, stayed


def delete(path: str, ids: Iterable[int]) -> int:
    """Delete dead letters for good. Returns how many there were of *ids*."""
    queue = AckQueue(path)
    try:
        with queue.transaction() as connection:
            count = 0
            for letter_id in ids:
                count += connection.execute("DELETE FROM dead_letters WHERE id = ?", (letter_id,)).rowcount
            connection.execute("UPDATE ledger SET discarded = discarded + ?", (count,))
    finally:
        queue.close()
    return count
