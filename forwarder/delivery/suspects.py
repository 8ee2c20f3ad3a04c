"""Events that were refused alone and without a named reason: bad themselves, or is the far end?

A poison event is refused while its neighbours are taken. A wrong region, an edge with a tiny limit or
a project that takes nothing refuses every event alike, and must not turn the queue into dead letters.
So a refused event is only believed dead when the far end has said yes to something sent since it was
first refused, or when there is nothing else to ask; and not many of them for one yes. The others are
held, and asked again after the next yes.
"""

from __future__ import annotations

from forwarder.delivery.batch import Batch
from forwarder.spool import Dead

MANY = 3
DEAD_PER_YES = 5
DEAD_MOST = 100
SUSPECTS_BYTES = 32 * 1024 * 1024  # held at once; beyond, they are asked again before others are claimed


class Suspects:
    """The suspects, held in memory; their rows wait in the queue.

    Attributes:
        size_bytes: Of the suspects held.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._held: dict[Batch, Dead] = {}
        self._taken = 0
        self._refusals = 0
        self._credit = 0

    def __bool__(self) -> bool:
        return bool(self._held)

    def hold(self, batch: Batch, letter: Dead, sent: int) -> None:
        """Hold a batch of one event, refused as *letter* says when *sent* batches had been sent."""
        self._refusals += 1
        if self.are_all():
            self._credit = 0
        self._held[batch] = letter
        self.size_bytes += batch.size_bytes
        batch.refused_at = sent

    def are_dead(self, batch: Batch) -> bool:
        """Whether a batch of one event, just refused, is believed dead at once; then call `buried`."""
        return self._has_evidence(batch) and self._credit > 0

    def buried(self) -> None:
        """What was just refused has gone to the dead letters."""
        self._credit -= 1

    def said_yes(self, batch: Batch) -> None:
        """The far end has taken something of *batch*."""
        self._taken = max(self._taken, batch.number)
        self._refusals = 0
        self._credit = min(self._credit + DEAD_PER_YES, DEAD_MOST)

    def condemned(self, asked_all: bool) -> list[tuple[Batch, Dead]]:
        """Those that are dead by now; *asked_all*: there is nothing else to ask the far end about."""
        if not asked_all or self.are_all():
            return []
        return [pair for pair in self._held.items() if not self._has_evidence(pair[0])]

    def release(self, batch: Batch) -> None:
        """Let go of one."""
        del self._held[batch]
        self.size_bytes -= batch.size_bytes

    def due(self, asked_all: bool) -> Batch | None:
        """The one to ask again now, if any: there was a yes since it was refused, or there is only it."""
        if asked_all:
            return next(iter(self._held), None)
        return next(filter(self._has_evidence, self._held), None)

    def pop(self, asked_all: bool) -> Batch | None:
        """The one to ask again now, which is no suspect meanwhile."""
        batch = self.due(asked_all)
        if batch is not None:
            self.release(batch)
        return batch

    def are_all(self) -> bool:
        """Whether many were held since the last yes: the far end may be at fault."""
        return self._refusals >= MANY

    def _has_evidence(self, batch: Batch) -> bool:
        return batch.refused_at is not None and self._taken > batch.refused_at
