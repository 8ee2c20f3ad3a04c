"""How far apart requests start, once the far end has said "too many": one forwarder's share of a limit."""

from __future__ import annotations

import math
from collections import deque

# Mixpanel's limit is "measured on a rolling 1 minute basis": what a 429 is for may be a minute old.
WINDOW_S = 60.0
KEPT = 0.9
MORE = 0.05
# In windows without a "too many": after so many a success adds twice as much, after twice as many nine times.
EAGER = 3.0
FORGOTTEN = 20.0
OWED = 1 / 30
# So many requests in a window tell what the far end takes of one who sends all it can.
TELLING = 30


class Pace:
    """A rate in requests per second, found as TCP finds its own; without limit until the first "too many".

    Then it is what the far end took within the minute before: be it that one forwarder has the limit for
    itself, or that a thousand share it and have one request a minute each. Where little was sent in it, that
    tells nothing: there it takes a second "too many", without a success in between. From there on each takes
    a tenth away, but once a minute when there is nothing else in between, and each success adds a twentieth
    of a request a minute. As this is the same for all, those that have more lose more, and all
    come to have the same, whatever their latency. The longer nobody has said "too many", the more a
    success adds: a rate comes back within minutes when others go, and after twenty it has no limit again.

    It never falls below one request a minute. When exactly a request starts is drawn from the interval
    around its time, so that nobody is in step with others.

    Not thread-safe. Instants are the caller's (monotonic), and so is chance: *draw*, from 0 to 1.

    Attributes:
        due_at: When the next request may start.
    """

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._rate = math.inf
        self._taken: deque[float] = deque()
        self._quiet_s = 0.0
        self._heard_at = 0.0
        self._slowed_at = -math.inf
        self._is_refused = False
        self._mean_at = -math.inf
        self.due_at = -math.inf

    @property
    def per_minute(self) -> float:
        """Requests a minute; infinite: as many as there are connections for."""
        return self._rate * 60

    def sent(self, now: float, draw: float) -> None:
        """A request starts."""
        interval_s = 1 / self._rate
        self._mean_at = max(self._mean_at, now - OWED * self.window_s) + interval_s
        self.due_at = max(self._mean_at + (draw - 0.5) * interval_s, now + interval_s / 2)

    def succeeded(self, now: float) -> None:
        """The far end took a request."""
        self._quiet_s += now - self._heard_at
        self._heard_at = now
        self._is_refused = False
        if self._quiet_s > FORGOTTEN * self.window_s:
            self._rate = math.inf
        self._rate += MORE / self.window_s * (1 + (self._quiet_s / self.window_s / EAGER) ** 3)
        self._taken.append(now)
        self._forget_taken(now)

    def throttled(self, now: float, draw: float) -> None:
        """The far end said "too many"."""
        is_first = self._rate == math.inf
        self._quiet_s = 0.0
        if is_first:
            self._forget_taken(now)
            is_stray = len(self._taken) < TELLING and not self._is_refused
            self._is_refused = True
            if is_stray:
                return
            self._rate = len(self._taken) / self.window_s
            # Of the time before a start nothing is known: what was taken may be far below the share.
            self._quiet_s = 2 * EAGER * self.window_s
        if is_first or not self._is_refused or now >= self._slowed_at + self.window_s:
            self._rate = max(self._rate * KEPT, 1 / self.window_s)
            self._slowed_at = now
        self._heard_at = now
        self._is_refused = True
        if not is_first:
            self._mean_at = max(self._mean_at, now + 1 / self._rate)
            self.due_at = now + (0.5 + draw) / self._rate

    def failed(self, now: float) -> None:
        """There was no answer: no reason for less, and no time in which nobody said "too many"."""
        self._heard_at = now

    def flush(self) -> None:
        """Let the next request start now."""
        self.due_at = self._mean_at = -math.inf

    def _forget_taken(self, now: float) -> None:
        while self._taken and self._taken[0] <= now - self.window_s:
            self._taken.popleft()
