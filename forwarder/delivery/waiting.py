"""What is to be sent again: batches that came back, and parts of them."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterator

from forwarder.delivery.batch import Batch

# Refusals count against Mixpanel's rate limit: parts of what was refused go out at most this often.
REFUSAL_PACE_S = 0.1


class Waiting:
    """Batches in the order of the queue. Instants are the caller's (monotonic)."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []
        self._paced_until = 0.0

    def __bool__(self) -> bool:
        return bool(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def add(self, batch: Batch) -> None:
        """Have *batch* sent again as soon as possible."""
        batch.not_before = 0.0
        insort(self._batches, batch, key=_first_id)

    def add_refused(self, part: Batch, now: float) -> None:
        """Have *part* of what was refused sent, at the pace of refusals."""
        part.not_before = now + REFUSAL_PACE_S
        insort(self._batches, part, key=_first_id)

    def pop(self, now: float) -> Batch | None:
        """The first that may be sent now; it waits no longer."""
        for index, batch in enumerate(self._batches):
            if self._due_at(batch) <= now:
                if batch.not_before:
                    self._paced_until = now + REFUSAL_PACE_S
                return self._batches.pop(index)
        return None

    def due_at(self) -> float:
        """When `pop` has one to give; infinite: never."""
        return min(map(self._due_at, self._batches), default=math.inf)

    def flush(self) -> None:
        """Let all be sent now."""
        for batch in self._batches:
            batch.not_before = 0.0

    def _due_at(self, batch: Batch) -> float:
        return max(batch.not_before, self._paced_until) if batch.not_before else 0.0


def _first_id(batch: Batch) -> int:
    return batch.ids[0]
