"""A batch: events that are sent together, and what has come of it so far."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from forwarder.event import text_of


@dataclass(slots=True, eq=False)
class Batch:
    """Events on their way, ids and final bytes side by side, in the order of the queue.

    Attributes:
        size_bytes: Of the uncompressed request body.
        tries: How often it, or the batch it is a part of, has been sent.
        recounted: It was sent again because the far end's count was short.
        refusals: How often this, or a batch it is a part of, was refused without a reason, with a yes to
            something else between each two.
        doubted_at, refused_at: How many batches had been sent when that happened first, and last; None: it
            has not.
        failed_tries: How often in all it got no answer, or none from Mixpanel.
        failures: How often of these something else got a yes since the time before.
        failed_at: How many batches had been sent when that happened last; None: it has not.
        not_before: The instant (monotonic) before which it is not to be sent.
        is_paced: It is a part of what was refused, and keeps the pace of refusals.
        ticket: From `backoff.Connections`, taken when it was sent.
        number: Of its last sending, counted from 1.
    """

    ids: Sequence[int]
    events: Sequence[bytes]
    size_bytes: int
    tries: int = 0
    recounted: bool = False
    refusals: int = 0
    doubted_at: int | None = None
    refused_at: int | None = None
    failed_tries: int = 0
    failures: int = 0
    failed_at: int | None = None
    not_before: float = 0.0
    is_paced: bool = False
    ticket: int = 0
    number: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, indexes: Sequence[int] | range) -> Batch:
        """The events at *indexes* as a batch of their own, with the same past."""
        events = [self.events[index] for index in indexes]
        ids = [self.ids[index] for index in indexes]
        return replace(self, ids=ids, events=events, size_bytes=sum(map(len, events)) + len(events))

    def emptied(self) -> Batch:
        """The same without the events' content."""
        return replace(self, events=(), size_bytes=0)

    def filled(self, event: bytes) -> Batch:
        """An emptied batch of one event, with its content again."""
        return replace(self, events=(event,), size_bytes=len(event) + 1)

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches of half the events each."""
        middle = len(self) // 2
        return self.part(range(middle)), self.part(range(middle, len(self)))

    def without(self, indexes: Container[int]) -> Batch:
        """The events that are not at *indexes*."""
        return self.part([index for index in range(len(self)) if index not in indexes])


def pack(events: Sequence[bytes]) -> bytes:
    """The request body for *events*: NDJSON, gzip. The same bytes for the same events."""
    from isal import igzip

    # Level 1 of isal costs a quarter of zlib's, at about the same size.
    packed: bytes = igzip.compress(text_of(events), 1, mtime=0)
    return packed
