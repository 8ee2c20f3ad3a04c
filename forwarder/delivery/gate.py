"""Whether anything may be sent now: open, backing off, or blocked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forwarder.delivery.backoff import delay_s


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
        opens_at: When the next try may be made.
    """

    def __init__(self, schedule: Schedule, random: Callable[[], float]) -> None:
        self.schedule = schedule
        self._random = random
        self.state = "running"
        self.reason = ""
        self.opens_at = 0.0
        self.tries = 0

    def is_closed(self, now: float) -> bool:
        """Whether to wait."""
        return now < self.opens_at

    def back_off(self, reason: str, now: float, floor_s: float = 0.0) -> None:
        """Wait, longer each time; at least *floor_s*."""
        self.tries += 1
        wait_s = delay_s(self.tries, self.schedule.initial_s, self.schedule.maximum_s, self._random())
        self._close("backing_off", reason, now + max(wait_s, floor_s))

    def block(self, reason: str, now: float) -> None:
        """Wait long: a person has to mend something."""
        self.tries += 1
        wait_s = delay_s(64, self.schedule.initial_s, self.schedule.maximum_s, self._random())
        self._close("blocked", reason, now + wait_s)

    def open(self) -> None:
        """The far end answers again."""
        self.tries = 0
        self._close("running", "", 0.0)

    def flush(self) -> None:
        """Forget the present wait, but not why."""
        self.opens_at = 0.0

    def _close(self, state: str, reason: str, opens_at: float) -> None:
        self.state = state
        self.reason = reason
        self.opens_at = opens_at
