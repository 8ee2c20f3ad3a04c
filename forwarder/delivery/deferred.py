"""What was sent without success and waits to be sent again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import heappop, heappush

from forwarder.delivery.batch import Batch
from forwarder.delivery.report import Postponed
from forwarder.spool import Consumer

# Refusals count against Mixpanel's rate limit: parts of a refused batch are sent at most this often.
PART_PACE_S = 0.1
# Turns take at most a tenth of the time, or one that times out would occupy a connection.
WAIT_PER_TRY = 9

Heap = list[tuple[int, int, Batch]]


class Deferred:
    """Batches without their content, which stays in the queue and is read again for sending.

    What failed or was refused while others passed is isolated. While nothing else passes, all isolated
    batches share one schedule and are sent one at a time, in turns. Instants are the caller's (monotonic).

    Args:
        wait_s: How long to wait after that many turns without success.

    Attributes:
        ready: Batches that need not wait, the largest first.
        parts: Parts of batches that were refused, or failed while others passed; the smallest first, so that
            few wait.
        failed: Batches that may have failed by chance.
        blamed: Parts that failed themselves.
        refused: Single events that were refused without a reason.
        alone: Single events that fail repeatedly while others pass.
        parts_at: When a part or a blamed batch may be taken.
    """

    def __init__(self, spool: Consumer, wait_s: Callable[[int], float]) -> None:
        self._spool = spool
        self._wait_s = wait_s
        self.ready: Heap = []
        self.parts: Heap = []
        self.failed: deque[Batch] = deque()
        self.blamed: deque[Batch] = deque()
        self.refused: deque[Batch] = deque()
        self.alone: deque[Batch] = deque()
        self.parts_at = -math.inf
        self._turn_at = self._turned_at = -math.inf
        self._failed_turns = 0
        self._urgent = 0
        self._is_blamed_turn = False

    def __len__(self) -> int:
        return len(self.ready) + len(self.parts) + len(self.failed) + self.isolated

    @property
    def isolated(self) -> int:
        """How many batches are isolated."""
        return len(self.blamed) + len(self.refused) + len(self.alone)

    @property
    def turn_at(self) -> float:
        """When an isolated batch has its turn; infinite: none waits, or one is in flight."""
        return self._turn_at if self.isolated else math.inf

    def postponed(self, retry_at: float, now: float) -> Iterator[Postponed]:
        """What was sent without success, the isolated batches first.

        Args:
            retry_at: When those are sent again that may have failed by chance.
        """
        isolated = [*self.refused, *self.alone, *self.blamed]
        first = min(isolated, key=lambda batch: batch.number, default=None)
        due = [(batch, self.turn_at if batch is first else math.inf) for batch in isolated]
        due += [(batch, retry_at) for batch in self.failed]
        due += [(batch, self.parts_at) for _, _, batch in self.parts]
        due += [(batch, retry_at) for _, _, batch in self.ready]
        for batch, at in due:
            yield Postponed.until(at, now, batch.ids, batch.reason, batch.tries)

    def add_ready(self, *batches: Batch) -> None:
        """Send *batches* as soon as possible."""
        for batch in batches:
            heappush(self.ready, (-len(batch), batch.ids[0], _emptied(batch)))

    def add_parts(self, *parts: Batch, now: float) -> None:
        """Send *parts*, at a limited rate."""
        self.parts_at = max(self.parts_at, now + PART_PACE_S)
        for part in parts:
            heappush(self.parts, (len(part), part.ids[0], _emptied(part)))

    def add_failed(self, batch: Batch) -> Batch:
        """Send *batch* again as it is. Returns what is kept of it."""
        self.failed.append(_emptied(batch))
        return self.failed[-1]

    def isolate(self, lane: deque[Batch], batch: Batch, now: float) -> Batch:
        """Hold *batch* at the end of *lane*: blamed, refused or alone. Returns what is kept of it."""
        if not self.isolated and self._turn_at < math.inf:
            self._failed_turns = max(self._failed_turns, 1)
            self._turn_at = max(self._turn_at, now + self._wait_s(self._failed_turns))
        lane.append(_emptied(batch))
        return lane[-1]

    def take(self, lane: deque[Batch] | Heap, now: float, *, is_paced: bool = False) -> Batch | None:
        """The first batch of *lane*, with its content; None: others have deleted it.

        *is_paced*: the next part or blamed batch has to wait.

        Raises:
            ForwarderError: the queue can't be read. Nothing has changed.
        """
        held = lane[0] if isinstance(lane, deque) else lane[0][-1]
        claim = self._spool.read_again(held.ids, held.size_bytes)
        if isinstance(lane, deque):
            lane.popleft()
        else:
            heappop(lane)
        if is_paced:
            self.parts_at = now + PART_PACE_S
        if not claim.ids:
            return None
        return replace(held, ids=claim.ids, events=claim.events, size_bytes=claim.size_bytes)

    def take_turn(self, now: float) -> Batch | None:
        """By turns a blamed part, or the single event whose last try is oldest. One until `end_turn`.

        Raises: as `take`.
        """
        singles = [lane for lane in (self.refused, self.alone) if lane]
        self._is_blamed_turn = not self._is_blamed_turn
        if self.blamed and (self._is_blamed_turn or not singles):
            singles = [self.blamed]
        found = self.take(min(singles, key=lambda lane: lane[0].number), now)
        self._urgent = max(self._urgent - 1, 0)
        if found is not None:
            self._turn_at, self._turned_at = math.inf, now
        return found

    def end_turn(self, now: float, *, has_failed: bool) -> None:
        """The batch of `take_turn` is answered. The next turn comes after a wait, or soon if it passed."""
        self._failed_turns = (self._failed_turns + 1) * has_failed
        wait_s = PART_PACE_S
        if has_failed and not self._urgent:
            wait_s = max(self._wait_s(self._failed_turns), WAIT_PER_TRY * (now - self._turned_at))
        self._turn_at = now + wait_s

    def flush(self) -> None:
        """Give each isolated batch its turn, one soon after the other."""
        self._urgent = self.isolated
        if self._turn_at < math.inf:
            self._turn_at = -math.inf


def _emptied(batch: Batch) -> Batch:
    return replace(batch, events=())
