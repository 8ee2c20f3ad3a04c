"""Events that were refused alone and without a named reason: bad themselves, or is the far end?

A poison event is refused while its neighbours are taken. A wrong region, an edge with a tiny limit or
a project that takes nothing refuses every event alike, and must not turn the queue into dead letters.
So an event is believed dead when it was refused alone and, in batches or alone, `ASKS` times in all, with a
yes to something else between each two; and only a few events for what is imported meanwhile. The others
wait, and are asked about again when there was a yes. Where nothing else is left to ask about, or too much
was refused in a row, it takes a probe to tell (:mod:`forwarder.delivery.probe`).
"""

from __future__ import annotations

from forwarder.delivery.batch import Batch
from forwarder.spool import Consumer

# Of 200 single events, while every second request was refused at random, 50 were given up with 2 asks, 13
# with 4, 3 with 6. Halving a batch of 2000 asks eleven times on its way.
ASKS = 5
MANY = 3
# How many may die: so many at first and with each import, and one for each hundred events imported; but a
# far end that has been good for long may turn bad as well.
CREDIT, EVENTS_FOR_ONE, CREDIT_MOST = 3, 100, 20


class Suspects:
    """The suspects, by the ids of their rows, which wait in the queue."""

    def __init__(self, spool: Consumer) -> None:
        self._spool = spool
        self._held: dict[int, Batch] = {}
        self._taken = 0
        self._refusals = 0
        self._credit = CREDIT

    def __bool__(self) -> bool:
        return bool(self._held)

    def refused(self, batch: Batch, sent: int) -> None:
        """*batch*, of any size, was refused without a reason when *sent* batches had been sent."""
        if batch.refused_at is None or self._taken > batch.refused_at:
            batch.refusals += 1
        batch.refused_at = sent

    def is_dead(self, batch: Batch) -> bool:
        """Whether a batch of one event, just refused, is believed to be at fault itself."""
        return batch.refusals >= ASKS and not self.are_many and not self.are_stalled

    def buried(self) -> None:
        """One that was just refused is dead."""
        self._refusals += 1
        self._credit -= 1

    def hold(self, batch: Batch) -> None:
        """Hold a batch of one event that was just refused."""
        self._refusals += 1
        # Without its content, or many of them would fill the memory.
        self._held[batch.ids[0]] = batch.emptied()

    def said_yes(self, batch: Batch, imported: int) -> None:
        """The far end has judged *batch* event by event, and *imported* so many."""
        self._taken = max(self._taken, batch.number)
        self._refusals = 0
        if imported:
            self._credit = min(self._credit + CREDIT + imported // EVENTS_FOR_ONE, CREDIT_MOST)

    def can_ask(self) -> bool:
        """Whether `pop` has one to give."""
        return self._next() is not None

    def pop(self) -> Batch | None:
        """One to ask about again, as there was a yes since it was refused; it is no suspect meanwhile."""
        return self._take(self._next())

    def pop_any(self) -> Batch | None:
        """The one that waits longest, whatever there was since."""
        return self._take(next(iter(self._held), None))

    @property
    def are_many(self) -> bool:
        """Whether so many were refused since the last yes that the far end may be at fault."""
        return self._refusals >= MANY

    @property
    def are_stalled(self) -> bool:
        """Whether so many have died for what was imported that no more may."""
        return self._credit <= 0

    def _next(self) -> int | None:
        if not self.are_stalled:
            for row_id, held in self._held.items():
                if held.refused_at is not None and self._taken > held.refused_at:
                    return row_id
        return None

    def _take(self, row_id: int | None) -> Batch | None:
        if row_id is None:
            return None
        held = self._held[row_id]
        claim = self._spool.claim(row_id - 1, 1, 0)
        del self._held[row_id]
        # It may be gone: another program may delete what waits.
        return held.filled(claim.events[0]) if claim.ids == [row_id] else None
