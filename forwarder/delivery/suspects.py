"""Events that were refused alone and without a named reason: bad themselves, or is the far end?

A poison event is refused while its neighbours are taken. A wrong region, an edge with a tiny limit or
a project that takes nothing refuses every event alike, and must not turn the queue into dead letters.
So an event that was refused alone is held, and asked about again once the far end has said yes to
something sent since; refused then too, it is dead. Where nothing else is left to ask about, or too much
was refused in a row, it takes a probe to tell (:mod:`forwarder.delivery.probe`).
"""

from __future__ import annotations

from forwarder.delivery.batch import Batch

MANY = 3


class Suspects:
    """The suspects, held in memory; their rows wait in the queue."""

    def __init__(self) -> None:
        self._held: list[Batch] = []
        self._taken = 0
        self._refusals = 0

    def __bool__(self) -> bool:
        return bool(self._held)

    def is_dead(self, batch: Batch) -> bool:
        """Whether a batch of one event, just refused, is believed to be at fault itself."""
        return self._has_evidence(batch) and not self.are_many

    def refused(self) -> None:
        """One event was refused alone, and is held or dead now."""
        self._refusals += 1

    def hold(self, batch: Batch, sent: int) -> None:
        """Hold a batch of one event, refused when *sent* batches had been sent."""
        batch.refused_at = sent
        self._held.append(batch)

    def said_yes(self, batch: Batch) -> None:
        """The far end has judged *batch* event by event."""
        self._taken = max(self._taken, batch.number)
        self._refusals = 0

    def can_ask(self) -> bool:
        """Whether `pop` has one to give."""
        return any(map(self._has_evidence, self._held))

    def pop(self) -> Batch | None:
        """One to ask about again, as there was a yes since it was refused; it is no suspect meanwhile."""
        batch = next(filter(self._has_evidence, self._held), None)
        if batch is not None:
            self._held.remove(batch)
        return batch

    @property
    def are_many(self) -> bool:
        """Whether so many were refused since the last yes that the far end may be at fault."""
        return self._refusals >= MANY

    def _has_evidence(self, batch: Batch) -> bool:
        return batch.refused_at is not None and self._taken > batch.refused_at
