"""Taking out rows that are no events, or that a plain consumer is done with, as far as there is room."""

from __future__ import annotations

import sqlite3
import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from forwarder.spool import settling
from forwarder.spool.foreign import Origin
from forwarder.spool.schema import ROW
from forwarder.spool.settlement import Claim, Dead, Settlement
from forwarder.spool.sqlite_errors import SpoolFullError

STEP_ROWS = 1000
STEP_BYTES = 1 << 20
KEPT_MOST = 1_000_000
KEPT_RETRY_S = 1.0


class Clearing:
    """Buries and sweeps rows that nobody was given, and keeps in mind those there is no room for.

    It keeps `KEPT_MOST` ids, 8 MB; what is beyond stays in the queue for the next consumer.

    Attributes:
        moved: How many rows have been put at the end of the queue.

    Args:
        origin: The queue.
        free: Takes a step in a write transaction, with the reserve to draw on.
    """

    def __init__(self, origin: Origin, free: Callable[[Callable[[sqlite3.Connection], Any]], Any]) -> None:
        self._origin = origin
        self._free = free
        self._kept = array("q")
        self._full_until = 0.0
        self.moved = 0
        self._dead = self._swept = 0
        self._reason = ""

    @property
    def has_kept(self) -> bool:
        """Whether rows wait for room."""
        return bool(self._kept)

    def clear(self, dead: Sequence[Dead], swept: Sequence[int]) -> int:
        """Take rows out. Returns how many of them are kept for want of room.

        Raises:
            TryAgainError, StorageError: it could not be written; what is left is not kept in mind.
        """
        left = self._clear(dead, swept)
        self._kept.extend(left[: KEPT_MOST - len(self._kept)])
        return len(left)

    def clear_kept(self, connection: sqlite3.Connection) -> None:
        """Try again to take out what there was no room for, a step of it; at most once in `KEPT_RETRY_S`
        while there is still none. What has become an event meanwhile, as a plain consumer's nack makes it, is
        put at the end of the queue."""
        if not self._kept or time.monotonic() < self._full_until:
            return
        dead: list[Dead] = []
        swept: list[int] = []
        events: list[int] = []
        done = read_bytes = 0
        for row_id in self._kept[:STEP_ROWS]:
            row = connection.execute(f"{ROW} WHERE _id = ?", (row_id,)).fetchone()
            done += 1
            if row is None:
                continue
            found = self._origin.read(*row)
            if found is None:
                swept.append(row_id)
            elif isinstance(found, Dead):
                dead.append(found)
            else:
                events.append(row_id)
            read_bytes += len(row[1] or b"")
            if read_bytes >= STEP_BYTES:
                break
        self._kept[:done] = array("q", self._clear(dead, swept, events))

    def report(self, claim: Claim) -> None:
        """Write into *claim* what was taken out since the last report."""
        claim.dead, claim.reason, claim.swept = self._dead, self._reason, self._swept
        self._dead, self._reason, self._swept = 0, "", 0

    def _clear(self, dead: Sequence[Dead], swept: Sequence[int], events: Sequence[int] = ()) -> list[int]:
        left = [*swept, *events, *(letter.event_id for letter in dead)]
        if time.monotonic() < self._full_until:
            return left
        done = 0
        try:
            if swept:
                self._free(partial(settling.sweep, ids=swept))
                self._swept += len(swept)
                done = len(swept)
            if events:
                self.moved += self._free(partial(settling.move, ids=events, origin=self._origin))
                done += len(events)
            for letters in settling.pieces(dead):
                settlement = Settlement([letter.event_id for letter in letters], letters)
                self._free(partial(settling.settle, settlement=settlement))
                self._dead += len(letters)
                self._reason = self._reason or letters[0].reason
                done += len(letters)
        except SpoolFullError:
            self._full_until = time.monotonic() + KEPT_RETRY_S
        return left[done:]
