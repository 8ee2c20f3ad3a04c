"""What waits in the queue and is not claimed yet, and when to claim it."""

from __future__ import annotations

import math

from forwarder.delivery.batch import Batch
from forwarder.spool import Claim, Consumer


class Backlog:
    """The rows behind the claimed ones. Instants are the caller's (monotonic)."""

    def __init__(self, spool: Consumer) -> None:
        self._spool = spool
        self._left = 0
        self._since = 0.0
        self._dead = 0
        self._reason = ""

    def __bool__(self) -> bool:
        return self._left > 0

    def notice(self, now: float) -> None:
        """See what has been added to the queue."""
        before, self._left = self._left, self._spool.arrivals()
        if not before:
            self._since = now

    def flush(self) -> None:
        """Send what waits now without waiting for a full batch."""
        self._since = -math.inf

    def due_at(self, max_events: int, linger_s: float) -> float:
        """When to claim a batch, full or not, if nothing more comes; infinite: never."""
        if not self:
            return math.inf
        return -math.inf if self._left >= max_events else self._since + linger_s

    def claim(self, max_events: int, max_bytes: int) -> Batch | None:
        """The next batch, also a part-filled one. None: there is none, or call again.

        Raises:
            ForwarderError: the queue could not be read. Nothing has changed.
        """
        claim = self.read(max_events, max_bytes)
        return Batch(claim.ids, claim.events, claim.size_bytes) if claim.ids else None

    def read(self, max_events: int, max_bytes: int) -> Claim:
        """Claim the next rows as they are. Raises: as `claim`."""
        claim = self._noted(self._spool.claim(max_events, max_bytes))
        self._left = claim.left
        return claim

    def peek(self, place: float) -> bytes | None:
        """An event at a *place* from 0 (the next one) to 1 (the newest), which stays there. None: none."""
        claim = self._noted(self._spool.sample(place))
        return claim.events[0] if claim.ids else None

    def _noted(self, claim: Claim) -> Claim:
        self._dead += claim.dead
        self._reason = self._reason or claim.reason
        return claim

    def take_dead(self) -> tuple[int, str]:
        """How many rows since the last call were not events, and the reason for the first."""
        dead, reason = self._dead, self._reason
        self._dead, self._reason = 0, ""
        return dead, reason
