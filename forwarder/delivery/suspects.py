"""Events that were refused alone and without a named reason: bad themselves, or is the far end?

A poison event is refused while its neighbours are taken. A wrong region, an edge with a tiny limit or
a project that takes nothing refuses every event alike, and must not turn the queue into dead letters.
So an event is believed dead when it was refused alone and, in batches or alone, `ASKS` times in all, with a
yes to something else between each two; and only if others were imported meanwhile, and only a few for what
was imported. Until then it waits.
"""

from __future__ import annotations

from heapq import heappop, heappush

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
        # The one that waits longest first.
        self._held: dict[int, Batch] = {}
        # When they were first doubted, until something is imported after that; then when they were refused.
        self._untold: list[tuple[int, int]] = []
        self._untold_ids: set[int] = set()
        self._told: list[tuple[int, int]] = []

    def __bool__(self) -> bool:
        return bool(self._held)

    def is_dead(self, batch: Batch) -> bool:
        """Whether a batch of one event, just refused, is believed to be at fault itself."""
        return batch.refusals >= ASKS and not self._evidence.are_many and self._can_tell(batch)

    def hold(self, batch: Batch) -> None:
        """Hold a batch of one event that was just refused."""
        # Without its content, or many of them would fill the memory.
        row_id = batch.ids[0]
        self._held[row_id] = batch.emptied()
        if row_id not in self._untold_ids:
            self._untold_ids.add(row_id)
            heappush(self._untold, (batch.doubted_at or 0, row_id))

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
        return self._evidence.credit > 0 and self._first_told() is not None

    def _can_tell(self, batch: Batch) -> bool:
        return self._evidence.credit > 0 and self._evidence.is_importing_since(batch.doubted_at)

    def _next(self) -> int | None:
        first = self._first_told()
        if (
            first is None
            or not self._can_tell(first)
            or not self._evidence.is_judging_since(first.refused_at)
        ):
            return None
        return first.ids[0]

    def _first_told(self) -> Batch | None:
        """The one that was refused longest ago, of those since whose first refusal something was imported."""
        while self._untold and self._evidence.is_importing_since(self._untold[0][0]):
            _, row_id = heappop(self._untold)
            self._untold_ids.remove(row_id)
            if row_id in self._held:
                heappush(self._told, (self._held[row_id].refused_at or 0, row_id))
        while self._told:
            refused_at, row_id = self._told[0]
            held = self._held.get(row_id)
            if held is not None and held.refused_at == refused_at:
                return held
            # It was asked about in the meantime.
            heappop(self._told)
        return None

    def _take(self, row_id: int | None) -> Batch | None:
        if row_id is None:
            return None
        batch = read_again(self._spool, self._held[row_id])
        del self._held[row_id]
        return batch
