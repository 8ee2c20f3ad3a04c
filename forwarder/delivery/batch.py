"""A batch: events that are sent together."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from forwarder.records.verdict import Outcome
from forwarder.spool import Dead


@dataclass(slots=True, eq=False)
class Batch:
    """Events to send: ids and final bytes side by side, in the order of the queue.

    Only its owner, the dispatcher, changes it.

    Attributes:
        size_bytes: Of the uncompressed request body.
        tries: How often it, or the batch it was split from, has been sent.
        failures, refusals: How often it got no answer from Mixpanel, and how often it was refused without a
            reason. Each counts only if something else got through since the one before.
        number: The number of its last request, see `flow.Flow.sent`.
        patience_s: How long to wait for the answer to that request.
        is_recounted: It is sent again because the server's count was short.
        reason: What the last request without success led to.
    """

    ids: Sequence[int]
    events: Sequence[bytes]
    size_bytes: int
    tries: int = 0
    failures: int = 0
    refusals: int = 0
    number: int = 0
    patience_s: float = 0.0
    is_recounted: bool = False
    reason: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, indexes: Sequence[int] | range) -> Batch:
        """The events at *indexes* as a separate batch with the same history."""
        events = [self.events[index] for index in indexes]
        ids = [self.ids[index] for index in indexes]
        return replace(self, ids=ids, events=events, size_bytes=sum(map(len, events)) + len(events))

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches of half the events each."""
        middle = len(self) // 2
        return self.part(range(middle)), self.part(range(middle, len(self)))

    def without(self, indexes: Container[int]) -> Batch:
        """The events that are not at *indexes*."""
        return self.part([index for index in range(len(self)) if index not in indexes])

    def dead(self, outcome: Outcome) -> list[Dead]:
        """The events that the answer names as refused; none of a sample."""
        if not self.ids:
            return []
        return [
            Dead(self.ids[said.index], self.events[said.index], said.message, said.field, outcome.status)
            for said in outcome.rejections
        ]

    def all_dead(self, reason: str, outcome: Outcome) -> list[Dead]:
        """All of them, for one *reason*."""
        pairs = zip(self.ids, self.events, strict=True)
        return [Dead(row_id, event, reason, "", outcome.status) for row_id, event in pairs]
