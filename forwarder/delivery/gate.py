"""Whether anything may be sent now: open, backing off, or blocked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forwarder.delivery.backoff import delay_s
from forwarder.delivery.pace import WINDOW_S, Pace

# With full batches, a fifteenth of what Mixpanel takes of a project.
NOTICED_PER_MINUTE = 60


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to wait after failures, in seconds; see `backoff.delay_s`."""

    initial_s: float
    maximum_s: float


class Gate:
    """One gate for the far end, so that no batch hammers it while others wait.

    No clock of its own: instants are the caller's (monotonic).

    Attributes:
        state: ``running``, ``backing_off`` or ``blocked``.
        reason: Why, for a person.
        opens_at: When the next try may be made after a failure.
    """

    def __init__(self, schedule: Schedule, random: Callable[[], float]) -> None:
        self._random = random
        self.apply(schedule)
        self.state = "running"
        self.reason = ""
        self.opens_at = 0.0
        self.tries = 0

    def apply(self, schedule: Schedule) -> None:
        """Take a new schedule; the pace begins anew."""
        self.schedule = schedule
        # Nobody is to wait longer between requests than between tries.
        self._pace = Pace(min(WINDOW_S, schedule.maximum_s))

    @property
    def next_at(self) -> float:
        """When the next request may start, by what failed and by the pace."""
        return max(self.opens_at, self._pace.due_at)

    @property
    def note(self) -> str:
        """For a person, while it is open: that it keeps a pace which is felt; else ""."""
        pace = self._pace.per_minute
        if pace > NOTICED_PER_MINUTE:
            return ""
        return f'it keeps to {max(pace, 1):.0f} a minute, as the far end has said "too many requests"'

    def is_closed(self, now: float) -> bool:
        """Whether to wait."""
        return now < self.next_at

    def sent(self, now: float) -> None:
        """A request starts."""
        self._pace.sent(now, self._random())

    def succeeded(self, now: float) -> None:
        """A request was let through, whatever became of it."""
        self._pace.succeeded(now)

    def back_off(self, reason: str, now: float, floor_s: float = 0.0) -> None:
        """Wait, longer each time; at least *floor_s*.

        The first of the longest waits is drawn out by up to as much again, a minute at most: those that fail
        for the same outage do not come back in step.
        """
        self.tries += 1
        wait_s = self._wait_s(self.tries, self._random())
        if self._wait_s(self.tries - 1) < self._wait_s(self.tries) == self._wait_s(self.tries + 1):
            wait_s += min(self.schedule.maximum_s, WINDOW_S) * self._random()
        self._pace.failed(now)
        self._close("backing_off", reason, now + max(wait_s, floor_s))

    def throttle(self, reason: str, now: float, floor_s: float = 0.0) -> None:
        """Back off, and go on slower."""
        self.back_off(reason, now, floor_s)
        self._pace.throttled(now, self._random())

    def block(self, reason: str, now: float) -> None:
        """Wait long: a person has to mend something."""
        self.tries += 1
        wait_s = self._wait_s(64, self._random())
        self._pace.failed(now)
        self._close("blocked", reason, now + wait_s)

    def open(self) -> None:
        """The far end answers again."""
        self.tries = 0
        self._close("running", "", 0.0)

    def flush(self) -> None:
        """Forget the present wait, but not why."""
        self.opens_at = 0.0
        self._pace.flush()

    def _wait_s(self, tries: int, jitter: float = 0.0) -> float:
        return delay_s(tries, self.schedule.initial_s, self.schedule.maximum_s, jitter)

    def _close(self, state: str, reason: str, opens_at: float) -> None:
        self.state = state
        self.reason = reason
        self.opens_at = opens_at
