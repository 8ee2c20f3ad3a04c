"""Which failures to tell of, where the same one goes on and on."""

from __future__ import annotations

import math
from typing import NamedTuple


class Repeat(NamedTuple):
    """What to tell of a spell of failures: how many so far, and for how long."""

    failures: int
    for_s: float


class Repeats:
    """Tells transitions, not repetitions: what to log of a failure that goes on.

    The first failure of a spell is told, and so is each new reason; the same again only as a reminder,
    after *interval_s*, then after twice that, up to *longest_s*; then the recovery, once. Where there is no
    recovery to be seen, a spell ends when nothing has failed for *quiet_s*. It logs nothing itself. For one
    thread; *now* is any clock that doesn't go back, in seconds.

    >>> repeats = Repeats(interval_s=60)
    >>> [repeats.failed("timeout", now) for now in (0, 2, 61)]
    [Repeat(failures=1, for_s=0), None, Repeat(failures=3, for_s=61)]
    >>> repeats.recovered(70)
    Repeat(failures=3, for_s=70)
    """

    MOST_REASONS = 8  # a reason with a number in it would be new each time
    _wait_s: float
    _since: float
    _told_at: float
    _failed_at: float

    def __init__(
        self, interval_s: float = 60.0, longest_s: float = 3600.0, quiet_s: float = math.inf
    ) -> None:
        self._interval_s = interval_s
        self._longest_s = longest_s
        self._quiet_s = quiet_s
        self._forget()

    def failed(self, reason: str, now: float) -> Repeat | None:
        """What to log of this failure; None: nothing, it was told lately."""
        if now - self._failed_at >= self._quiet_s:
            self._forget()
        self._failed_at = now
        if self._count == 0:
            self._since = self._told_at = now
        self._count += 1
        if reason not in self._reasons and len(self._reasons) < self.MOST_REASONS:
            self._reasons.add(reason)
        elif now - self._told_at < self._wait_s:
            return None
        else:
            self._wait_s = min(2 * self._wait_s, self._longest_s)
        self._told_at = now
        return Repeat(self._count, now - self._since)

    def recovered(self, now: float) -> Repeat | None:
        """What to log of this success; None when nothing had failed before it."""
        if self._count == 0:
            return None
        repeat = Repeat(self._count, now - self._since)
        self._forget()
        return repeat

    def _forget(self) -> None:
        self._count = 0
        self._since = self._told_at = self._failed_at = 0.0
        self._wait_s = self._interval_s
        self._reasons: set[str] = set()
