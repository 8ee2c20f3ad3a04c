"""What is to be sent again: batches that came back, and parts of them."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterator

from forwarder.delivery.backlog import read_again
from forwarder.delivery.batch import Batch
from forwarder.spool import Consumer

# Refusals count against Mixpanel's rate limit: parts of what was refused go out at most this often.
REFUSAL_PACE_S = 0.1


class Resend:
    """Batches in the order of the queue. Instants are the caller's (monotonic)."""

    def __init__(self, spool: Consumer) -> None:
        self._spool = spool
        self._batches: list[Batch] = []
        self._paced_until = 0.0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def add(self, batch: Batch, not_before: float = 0.0) -> None:
        """Have *batch* sent again as soon as possible, or not before an instant."""
        if batch.failures and len(batch) == 1:
            # It may wait for long, and others with it: without its content, or they would fill the room.
            batch = batch.emptied()
        batch.not_before = not_before
        batch.is_paced = False
        insort(self._batches, batch, key=_first_id)

    def add_refused(self, part: Batch, now: float) -> None:
        """Have *part* of what was refused sent, at the pace of refusals."""
        part.not_before = now + REFUSAL_PACE_S
        part.is_paced = True
        insort(self._batches, part, key=_first_id)

    def pop(self, now: float, is_fit: Callable[[Batch], bool], last_first: bool = False) -> Batch | None:
        """The first (or last) that may be sent now and is fit for it; it waits no longer."""
        indexes = range(len(self._batches))
        for index in reversed(indexes) if last_first else indexes:
            batch = self._batches[index]
            if self._due_at(batch) <= now and is_fit(batch):
                found = batch if batch.events else read_again(self._spool, batch)
                if batch.is_paced:
                    self._paced_until = now + REFUSAL_PACE_S
                del self._batches[index]
                return found
        return None

    def due_at(self, is_fit: Callable[[Batch], bool]) -> float:
        """When one that is fit for it may be sent; infinite: never."""
        return min(map(self._due_at, filter(is_fit, self._batches)), default=math.inf)

    def flush(self) -> None:
        """Let all be sent now."""
        for batch in self._batches:
            batch.not_before = 0.0

    def _due_at(self, batch: Batch) -> float:
        return max(batch.not_before, self._paced_until) if batch.is_paced else batch.not_before


def _first_id(batch: Batch) -> int:
    return batch.ids[0]
