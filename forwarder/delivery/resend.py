"""What is to be sent again: batches that came back, and parts of them."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from forwarder.delivery.backlog import read_again
from forwarder.delivery.batch import Batch
from forwarder.delivery.evidence import Evidence
from forwarder.spool import Consumer

# Refusals count against Mixpanel's rate limit: parts of what was refused go out at most this often.
REFUSAL_PACE_S = 0.1
# A batch that has failed so often lets others go first: it may be what makes the far end fail.
STUBBORN = 3


class _Lane:
    """Batches that wait for their instant, and by *order* those whose instant has come.

    Nothing here looks at more than a few of them, or waiting for one would cost more the more there are.
    """

    def __init__(self, order: Callable[[Batch], int]) -> None:
        self._order = order
        self._waiting: list[tuple[float, int, Batch]] = []
        self._due: list[Batch] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._due)

    def add(self, batch: Batch) -> None:
        heappush(self._waiting, (batch.not_before, batch.ids[0], batch))

    @property
    def due_at(self) -> float:
        """When one may be sent; infinite: never."""
        if self._due:
            return -math.inf
        return self._waiting[0][0] if self._waiting else math.inf

    def first(self, now: float, last_first: bool = False) -> Batch | None:
        """The first (or last) of those whose instant has come."""
        while self._waiting and self._waiting[0][0] <= now:
            insort(self._due, heappop(self._waiting)[-1], key=self._order)
        return self._due[-1 if last_first else 0] if self._due else None

    def remove(self, batch: Batch) -> None:
        """Take out what `first` has just given."""
        del self._due[0 if self._due[0] is batch else -1]

    def empty(self) -> Iterator[Batch]:
        """Take all out."""
        waiting, self._waiting = self._waiting, []
        due, self._due = self._due, []
        yield from due
        yield from (batch for _, _, batch in waiting)


class Resend:
    """Batches in the order of the queue; those last that fail again and again, until there is a yes.

    Instants are the caller's (monotonic).

    Attributes:
        size_bytes: Of all that is held.
    """

    def __init__(self, spool: Consumer, evidence: Evidence) -> None:
        self._spool = spool
        self._evidence = evidence
        self._free, self._paced = _Lane(_first_id), _Lane(_first_id)
        # The one that was tried longest ago first, or one would keep the others from being tried.
        self._stubborn, self._stubborn_alone = _Lane(_failed_at), _Lane(_failed_at)
        self._sorted_at = 0
        self._paced_until = 0.0
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return any(self._lanes)

    @property
    def _lanes(self) -> tuple[_Lane, ...]:
        return self._free, self._paced, self._stubborn, self._stubborn_alone

    def add(self, batch: Batch, not_before: float = 0.0) -> None:
        """Have *batch* sent again as soon as possible, or not before an instant."""
        if batch.failures and len(batch) == 1:
            # It may wait for long, and others with it: without its content, or they would fill the room.
            batch = batch.emptied()
        self._add(batch, not_before, is_paced=False)

    def add_paced(self, part: Batch, not_before: float) -> None:
        """Have *part* of what was refused or failed sent, at the pace of refusals."""
        self._add(part, not_before, is_paced=True)

    def _add(self, batch: Batch, not_before: float, *, is_paced: bool) -> None:
        batch.not_before = not_before
        batch.is_paced = is_paced
        self.size_bytes += batch.size_bytes
        self._lane_of(batch).add(batch)

    def _lane_of(self, batch: Batch) -> _Lane:
        if batch.failed_tries < STUBBORN or self._evidence.is_judging_since(batch.failed_at):
            return self._paced if batch.is_paced else self._free
        return self._stubborn if len(batch) > 1 else self._stubborn_alone

    def pop(self, now: float, last_first: bool = False) -> Batch | None:
        """The first (or last) that may be sent now and is not stubborn; it waits no longer."""
        self._sort()
        lanes = (self._free, self._paced) if self._paced_until <= now else (self._free,)
        found = [(batch, lane) for lane in lanes if (batch := lane.first(now, last_first))]
        if not found:
            return None
        choose = max if last_first else min
        return self._take(*choose(found, key=lambda one: _first_id(one[0])), now)

    def pop_stubborn(self, now: float, *, alone: bool) -> Batch | None:
        """Of those that are stubborn, and of one event or of several, the one that was tried longest ago."""
        self._sort()
        lane = self._stubborn_alone if alone else self._stubborn
        batch = lane.first(now)
        return self._take(batch, lane, now) if batch else None

    def _take(self, batch: Batch, lane: _Lane, now: float) -> Batch | None:
        found = batch if batch.events else read_again(self._spool, batch)
        if batch.is_paced:
            self._paced_until = now + REFUSAL_PACE_S
        lane.remove(batch)
        self.size_bytes -= batch.size_bytes
        return found

    @property
    def due_at(self) -> float:
        """When `pop` has one; infinite: never."""
        self._sort()
        return min(self._free.due_at, max(self._paced.due_at, self._paced_until))

    def stubborn_due_at(self, *, alone: bool) -> float:
        """When `pop_stubborn` has one; infinite: never."""
        self._sort()
        return (self._stubborn_alone if alone else self._stubborn).due_at

    def flush(self) -> None:
        """Let all be sent now."""
        for lane in self._lanes:
            for batch in lane.empty():
                batch.not_before = 0.0
                lane.add(batch)

    def _sort(self) -> None:
        """After a yes, those that failed before it are stubborn no more."""
        if self._sorted_at == self._evidence.judged:
            return
        self._sorted_at = self._evidence.judged
        for lane in (self._stubborn, self._stubborn_alone):
            for batch in lane.empty():
                self._lane_of(batch).add(batch)


def _first_id(batch: Batch) -> int:
    return batch.ids[0]


def _failed_at(batch: Batch) -> int:
    return batch.failed_at or 0
