"""What waits in the queue and has not been claimed yet, and when it is time to claim it."""

from __future__ import annotations

import math

from forwarder.delivery.batch import Batch
from forwarder.spool import Consumer


def read_again(spool: Consumer, batch: Batch) -> Batch | None:
    """An emptied batch of one event, with its content again; None: it is gone, others may delete it.

    Raises:
        ForwarderError: the queue could not be read.
    """
    (row_id,) = batch.ids
    claim = spool.claim(row_id - 1, 1, 0)
    return batch.filled(claim.events[0]) if list(claim.ids) == [row_id] else None


class Backlog:
    """The rows behind those that have been claimed. Instants are the caller's (monotonic).

    Attributes:
        linger_s: How long a part-filled batch may wait for company.
    """

    def __init__(self, spool: Consumer) -> None:
        self._spool = spool
        self._cursor = self._newest = 0
        self._since = 0.0
        self._buried = 0
        self._reason = ""
        self.linger_s = 0.0

    def __bool__(self) -> bool:
        return self._newest > self._cursor

    def notice(self, now: float) -> None:
        """See what has been put into the queue since."""
        newest = self._spool.last_id()
        if newest > self._newest:
            if not self:
                self._since = now
            self._newest = newest

    def flush(self) -> None:
        """Let what waits now wait for no company."""
        self._since = -math.inf

    def due_at(self, max_events: int) -> float:
        """When a batch is to be claimed, full or not, if nothing more comes; infinite: never."""
        if not self:
            return math.inf
        return -math.inf if self._newest - self._cursor >= max_events else self._since + self.linger_s

    def claim(self, max_events: int, max_bytes: int) -> Batch | None:
        """The next batch, and be it a part-filled one. None may also be a step on the way to one.

        Raises:
            ForwarderError: the queue could not be read. Nothing has changed.
        """
        claim = self._spool.claim(self._cursor, max_events, max_bytes)
        # A claim that gets nowhere: no row stands behind the rest of the numbers any more.
        self._cursor = claim.last_id if claim.last_id > self._cursor else self._newest
        self._buried += claim.dead
        self._reason = self._reason or claim.reason
        return Batch(claim.ids, claim.events, claim.size_bytes) if claim.ids else None

    def take_buried(self) -> tuple[int, str]:
        """How many rows have turned out to be no events since the last call, and why the first of them."""
        buried, reason = self._buried, self._reason
        self._buried, self._reason = 0, ""
        return buried, reason
