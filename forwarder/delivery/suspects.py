"""Events that were refused alone and without a named reason: bad themselves, or is the far end?

A poison event is refused while its neighbours are taken. A wrong region, an edge with a tiny limit or
a project that takes nothing refuses every event alike, and must not turn the queue into dead letters.
So an event is believed dead when it was refused alone and, in batches or alone, `ASKS` times in all, with a
yes to something else between each two; and only if others were imported meanwhile, and only a few for what
was imported. Until then it waits.
"""

from __future__ import annotations

from forwarder.delivery.backlog import read_again
from forwarder.delivery.batch import Batch
from forwarder.delivery.evidence import Evidence
from forwarder.spool import Consumer

# Of 200 single events, while every second request was refused at random, 50 were given up with 2 asks, 13
# with 4, 3 with 6. Halving a batch of 2000 asks eleven times on its way.
ASKS = 5


class Suspects:
    """The suspects, by the ids of their rows, which wait in the queue."""

    def __init__(self, spool: Consumer, evidence: Evidence) -> None:
        self._spool = spool
        self._evidence = evidence
        self._held: dict[int, Batch] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def is_dead(self, batch: Batch) -> bool:
        """Whether a batch of one event, just refused, is believed to be at fault itself."""
        return batch.refusals >= ASKS and not self._evidence.are_many and self._can_tell(batch)

    def hold(self, batch: Batch) -> None:
        """Hold a batch of one event that was just refused."""
        # Without its content, or many of them would fill the memory.
        self._held[batch.ids[0]] = batch.emptied()

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
    def can_tell(self) -> bool:
        """Whether one more yes would tell more of any of them."""
        return any(map(self._can_tell, self._held.values()))

    def _can_tell(self, batch: Batch) -> bool:
        return self._evidence.credit > 0 and self._evidence.is_importing_since(batch.doubted_at)

    def _next(self) -> int | None:
        for row_id, held in self._held.items():
            if self._can_tell(held) and self._evidence.is_judging_since(held.refused_at):
                return row_id
        return None

    def _take(self, row_id: int | None) -> Batch | None:
        if row_id is None:
            return None
        batch = read_again(self._spool, self._held[row_id])
        del self._held[row_id]
        return batch
