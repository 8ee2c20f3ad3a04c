"""Claimed rows in lanes: what changes the same goes in order, the rest in any."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from forwarder.delivery.report import Postponed

# How long an isolated row waits after another's success; and turns take at most a tenth of the time.
TURN_PACE_S, WAIT_PER_TRY = 0.1, 9


@dataclass(slots=True, eq=False)
class Row:
    """A claimed row without its content.

    Attributes:
        lane: Rows of one lane go in order.
        repeats: Sent twice, it leaves the same state as sent once.
        tries: How often it was sent.
        failures: How often it was sent without an answer; each counts only if another got through since.
        is_refused: It was refused alone.
        number: The number of the last such request, see `flow.Flow.sent`.
        most: How many rows its next request may have.
        reason: What the last request without success led to.
    """

    id: int
    lane: int
    repeats: bool
    size_bytes: int
    tries: int = 0
    failures: int = 0
    is_refused: bool = False
    number: int = 0
    most: int = 1 << 30
    reason: str = ""


def split(rows: Sequence[Row]) -> None:
    """Let the next request of each have half as many of them."""
    for row in rows:
        row.failures = min(row.failures, 1)
        row.most = max(len(rows) // 2, 1)


def postponed(rows: Sequence[Row], at: float, now: float) -> Postponed:
    """What is to be told of *rows* that are sent again *at* an instant."""
    return Postponed.until(at, now, [row.id for row in rows], rows[0].reason, max(row.tries for row in rows))


class Lanes:
    """Rows to be sent. A lane is barred from the moment when rows of it are taken, until it is released.

    Attributes:
        count: How many rows there are.
        free: By `Row.repeats`, a heap of (id, lane) with the first row of each lane that is not barred.
    """

    def __init__(self) -> None:
        # Lists: a deque takes 600 bytes, and most lanes have one row.
        self._rows: dict[int, list[Row]] = {}
        self._barred: set[int] = set()
        self.free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self.count = 0

    @property
    def has_free(self) -> bool:
        """Whether a row may be taken."""
        return bool(self.free[True] or self.free[False])

    def add(self, row: Row) -> None:
        """A row that was just claimed; the last of its lane."""
        rows = self._rows.setdefault(row.lane, [])
        rows.append(row)
        self.count += 1
        if len(rows) == 1 and row.lane not in self._barred:
            heappush(self.free[row.repeats], (row.id, row.lane))

    def take(self, repeats: bool, most: int, max_bytes: int) -> list[Row]:
        """The first rows by id, of one kind, as far as their lanes are free or only rows in the same request
        are before them."""
        free, following = self.free[repeats], list[tuple[int, int]]()
        found: list[Row] = []
        size_bytes = 0
        while len(found) < most and (free or following):
            heap = following if following and (not free or following[0] < free[0]) else free
            rows = self._rows[heap[0][1]]
            row = rows[0]
            size_bytes += row.size_bytes
            if found and (len(found) >= row.most or size_bytes > max_bytes):
                break
            heappop(heap)
            most = min(most, row.most)
            found.append(rows.pop(0))
            if rows and rows[0].repeats is repeats:
                heappush(following, (rows[0].id, row.lane))
            self._barred.add(row.lane)
        self.count -= len(found)
        return found

    def take_one(self, repeats: bool, place: float) -> list[Row]:
        """The first row of a free lane: of which one, *place* says, from 0 to 1."""
        free = self.free[repeats]
        index = min(int(place * len(free)), len(free) - 1)
        free[index], free[-1] = free[-1], free[index]
        _, lane = free.pop()
        heapify(free)
        self._barred.add(lane)
        self.count -= 1
        return [self._rows[lane].pop(0)]

    def put_back(self, rows: Sequence[Row]) -> None:
        """Rows that were taken, in their order: they are the first of their lanes again."""
        for row in reversed(rows):
            self._rows[row.lane].insert(0, row)
        self.count += len(rows)
        self.release(row.lane for row in rows)

    def release(self, lanes: Iterable[int]) -> None:
        """What was taken of these *lanes* is settled, or back."""
        for lane in self._barred.intersection(lanes):
            self._barred.remove(lane)
            if rows := self._rows[lane]:
                heappush(self.free[rows[0].repeats], (rows[0].id, lane))
            else:
                del self._rows[lane]


class Turns:
    """Isolated rows, which fail repeatedly while others pass. One is tried at a time, by a growing schedule.

    Args:
        wait_s: How long to wait after that many turns without success.
    """

    def __init__(self, wait_s: Callable[[int], float]) -> None:
        self._wait_s = wait_s
        self._rows: deque[Row] = deque()
        self._failed = 0
        self._at = self._taken_at = -math.inf
        self._is_out = False

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def at(self) -> float:
        """When a row has its turn; infinite: there is none, or one is in flight."""
        return self._at if self._rows and not self._is_out else math.inf

    def due(self) -> Iterator[tuple[list[Row], float]]:
        """The rows, each with when it has its turn."""
        for place, row in enumerate(self._rows):
            yield [row], math.inf if place else self.at

    def add(self, row: Row, now: float) -> None:
        """Isolate *row*."""
        if not self._rows and not self._is_out:
            self._at = max(self._at, now + self._wait_s(1))
        self._rows.append(row)

    def take(self, now: float) -> Row:
        """The row whose turn it is."""
        self._is_out, self._taken_at = True, now
        return self._rows.popleft()

    def put_back(self, row: Row) -> None:
        """It could not be sent."""
        self._is_out = False
        self._rows.appendleft(row)

    def end(self, now: float, *, has_failed: bool) -> None:
        """The turn is over."""
        self._is_out = False
        self._failed = (self._failed + 1) * has_failed
        wait_s = max(self._wait_s(self._failed), WAIT_PER_TRY * (now - self._taken_at)) if has_failed else 0.0
        self._at = now + max(wait_s, TURN_PACE_S)

    def flush(self) -> None:
        """Let the next turn be now."""
        self._at = -math.inf
