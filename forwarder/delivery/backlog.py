"""What waits in the queue and has not been claimed yet, and when it is time to claim it."""

from __future__ import annotations

import math

from forwarder.delivery.batch import Batch
from forwarder.spool import Claim, Consumer


class Backlog:
    """The rows behind those that have been claimed. Instants are the caller's (monotonic)."""

    def __init__(self, spool: Consumer) -> None:
        self._spool = spool
        self._left = 0
        self._since = 0.0
        self._dead = 0
        self._reason = ""

    def __bool__(self) -> bool:
        return self._left > 0

    def notice(self, now: float) -> None:
        """See what has been put into the queue since."""
        before, self._left = self._left, self._spool.arrivals()
        if not before:
            self._since = now

    def flush(self) -> None:
        """Let what waits now wait for no company."""
        self._since = -math.inf

    def due_at(self, max_events: int, linger_s: float) -> float:
        """When a batch is to be claimed, full or not, if nothing more comes; infinite: never."""
        if not self:
            return math.inf
        return -math.inf if self._left >= max_events else self._since + linger_s

    def claim(self, max_events: int, max_bytes: int) -> Batch | None:
        """The next batch, and be it a part-filled one. None may also be a step on the way to one.

        Raises:
            ForwarderError: the queue could not be read. Nothing has changed.
        """
        claim = self._noted(self._spool.claim(max_events, max_bytes))
        self._left = claim.left
        return Batch(claim.ids, claim.events, claim.size_bytes) if claim.ids else None

    def peek(self, place: float) -> bytes | None:
        """An event at a *place* from 0 (the next one) to 1 (the newest), which stays; None: there is none."""
        claim = self._noted(self._spool.sample(place))
        return claim.events[0] if claim.ids else None

    def _noted(self, claim: Claim) -> Claim:
        self._dead += claim.dead
        self._reason = self._reason or claim.reason
        return claim

    def take_dead(self) -> tuple[int, str]:
        """How many rows have turned out to be no events since the last call, and why the first of them."""
        dead, reason = self._dead, self._reason
        self._dead, self._reason = 0, ""
        return dead, reason
