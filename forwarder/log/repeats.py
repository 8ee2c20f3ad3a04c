"""Which of many equal failures to log."""

from __future__ import annotations

from typing import NamedTuple


class Repeat(NamedTuple):
    """What to log of a series of failures: how many so far, and for how long."""

    failures: int
    for_s: float


class Repeats:
    """Logs transitions, not repetitions, of a failure that lasts or that comes and goes.

    The first failure is logged, and each new reason. The same reason is logged again only as a reminder,
    after *interval_s*, then after twice that, up to *longest_s*. A recovery is logged if a failure was
    logged since the last logged recovery; counts and times begin there.

    A recovery does not restart the reminders, or a failure that comes and goes would be logged each time.
    But after a recovery the next reminder is due within ten intervals. Everything is forgotten if nothing
    fails for ten intervals after a recovery. If recoveries are not visible, give *quiet_s*: that long
    without a failure counts as one. This class logs nothing itself. For one thread; *now* is any clock
    that doesn't go back, in seconds.

    >>> repeats = Repeats(interval_s=60)
    >>> [repeats.failed("timeout", now) for now in (0, 2, 61)]
    [Repeat(failures=1, for_s=0), None, Repeat(failures=3, for_s=61)]
    >>> repeats.recovered(70)
    Repeat(failures=3, for_s=70)
    >>> repeats.failed("timeout", 75), repeats.recovered(76)
    (None, None)
    """

    MOST_REASONS = 8  # a reason with a number in it would be new each time
    _count: int
    _is_told: bool
    _is_over: bool
    _since: float
    _told_at: float
    _failed_at: float
    _wait_s: float

    def __init__(
        self, interval_s: float = 60.0, longest_s: float = 3600.0, quiet_s: float | None = None
    ) -> None:
        self._interval_s = interval_s
        self._longest_s = longest_s
        self._needs_recovery = quiet_s is None
        self._quiet_s = 10 * interval_s if quiet_s is None else quiet_s
        self._forget()

    def failed(self, reason: str, now: float) -> Repeat | None:
        """What to log of this failure; None: nothing, it was logged lately."""
        if self._is_over and now - self._failed_at >= self._quiet_s:
            self._forget()
        self._failed_at, self._is_over = now, not self._needs_recovery
        if self._count == 0:
            self._since = now
        self._count += 1
        if reason not in self._reasons and len(self._reasons) < self.MOST_REASONS:
            self._reasons.add(reason)
        elif now - self._told_at < self._wait_s:
            return None
        else:
            self._wait_s = min(2 * self._wait_s, self._longest_s)
        self._told_at, self._is_told = now, True
        return Repeat(self._count, now - self._since)

    def recovered(self, now: float) -> Repeat | None:
        """What to log of this success; None: no failure was logged before it."""
        self._is_over = True
        if not self._is_told:
            return None
        repeat = Repeat(self._count, now - self._since)
        self._count, self._is_told = 0, False
        self._wait_s = min(self._wait_s, self._quiet_s)
        return repeat

    def _forget(self) -> None:
        self._count = 0
        self._is_told = self._is_over = False
        self._since = self._told_at = self._failed_at = 0.0
        self._wait_s = self._interval_s
        self._reasons: set[str] = set()
